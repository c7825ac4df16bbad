"""The demo: does a network that sees a subject's other scans segment each of them better? `python -m
interconv_seg.demo`

Trains SimpleUNet and SimpleUNet-InterConv (replace; about the same number of parameters) on the same ragged sets of
simulated clinical scans, then compares them on held-out subjects by set size. Writes predictions.png, dice.png,
dice.csv and the two runs.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import interconv_kernels as ik

from . import plots, reports
from .anatomy import HEIGHT, HELD_OUT_SLICES, TISSUES, TRAIN_SLICES, WIDTH, Template, simulate_subject
from .atomic import write_text
from .data import Batch, Group, Sample, collate
from .evaluation import Ensemble, dice_of, evaluate
from .losses import automatic_loss
from .reports import Row
from .runs import Config, Run
from .seeding import random_of, seed_of
from .training import Training, train

SET_SIZES = (1, 2, 4, 8)
MOST_SCANS = 8
SHOWN = 4  # scans in the picture
# Widths of equal cost: 54,039 and 52,860 parameters with three tissues. (With 21 classes the paper pairs 24 with 16.)
BASELINE = Config(
    mode="automatic",
    network="simpleunet",
    features=23,
    labels=dict(enumerate(TISSUES[1:], start=1)),
    size=(HEIGHT, WIDTH),
    sets=2,
    set_sizes=(1, MOST_SCANS),
    augment=False,
    interval=100,
    learning_rate=3e-3,
    schedule="cosine",
)
INTERCONV = replace(BASELINE, interconv="replace", features=16)


def main() -> None:
    """Simulate, train, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps of each network (default %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=4.0, help="fewer steps, if training takes longer (default %(default)s)"
    )
    parser.add_argument("--subjects", type=int, default=24, help="held-out subjects (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for the results (default %(default)s)"
    )
    args = parser.parse_args()

    print(
        "Subjects are simulated: random smooth deformations of coronal slices of one template, MNI152 (from nilearn)."
    )
    print("Their scans are degraded as clinical scans are; the clean slice's tissues are the truth.\n")
    template = Template.load()
    batches = SimulatedBatches(template, args.seed)
    configs = {name: replace(c, seed=args.seed) for name, c in (("baseline", BASELINE), ("InterConv", INTERCONV))}
    sizes = {name: sum(p.numel() for p in config.new_network().parameters()) for name, config in configs.items()}
    print(f"SimpleUNet 23: {sizes['baseline']:,} parameters; SimpleUNet-InterConv 16: {sizes['InterConv']:,}")
    steps = affordable_steps(list(configs.values()), batches, args.steps, args.minutes * 60)
    if steps < args.steps:
        print(f"{steps} steps, not {args.steps}: that many fit into {args.minutes:g} minutes.")

    validation = [batches[-1], batches[-2]]  # of training's slices; only to be logged
    runs, seconds = {}, {}
    for name, config in configs.items():
        folder = args.out / name.lower()
        shutil.rmtree(folder, ignore_errors=True)
        start = time.perf_counter()
        train(folder, replace(config, steps=steps), batches, validation)
        seconds[name] = time.perf_counter() - start
        runs[name] = Run.open(folder)
    print(f"{steps} steps each: baseline {seconds['baseline']:.0f} s, InterConv {seconds['InterConv']:.0f} s.\n")

    groups = held_out_groups(template, args.subjects, args.seed)
    baseline, interconv = (Ensemble([runs[name]]) for name in configs)
    rows = reports.summarize(
        evaluate(interconv, groups, SET_SIZES), evaluate(baseline, groups, SET_SIZES), unit="subject"
    )
    report(rows, args.out)
    report_step_time(runs["InterConv"].network, batches[0])
    draw(args.out / "predictions.png", groups[0], baseline, interconv)
    print(f"Pictures and table: {args.out}/predictions.png, dice.png, dice.csv")


class SimulatedBatches:
    """Batches of two new subjects, each with 1 to 8 scans: batch `step` is a function of the seed and the step."""

    def __init__(self, template: Template, seed: int):
        self.template, self.seed = template, seed

    def __getitem__(self, step: int) -> Batch:
        random = random_of(self.seed, "demo", step)
        groups = []
        for i in range(BASELINE.sets):
            position, scans = random.choice(TRAIN_SLICES), random.integers(1, MOST_SCANS + 1)
            name = f"{step}/{i}"
            groups.append(simulate_group(self.template, name, int(position), int(scans), seed_of(self.seed, name)))
        return collate(groups)


def simulate_group(template: Template, name: str, position: int, scans: int, seed: int) -> Group:
    """A simulated subject's scans, all with the same truth."""
    images, tissues = simulate_subject(template, position, scans, torch.Generator().manual_seed(seed))
    mask = tissues.to(torch.int16)
    samples = [Sample(f"{name}/{i}", name, "MNI152", image, mask, (HEIGHT, WIDTH)) for i, image in enumerate(images)]
    return Group(name, tuple(samples))


def held_out_groups(template: Template, count: int, seed: int) -> list[Group]:
    """New deformations at slice positions that training never saw, each with 8 scans."""
    positions = [HELD_OUT_SLICES[i % len(HELD_OUT_SLICES)] for i in range(count)]
    return [
        simulate_group(template, f"held out {i}", position, MOST_SCANS, seed_of(seed, "held out", i))
        for i, position in enumerate(positions)
    ]


def affordable_steps(configs: Sequence[Config], batches: SimulatedBatches, most: int, seconds: float) -> int:
    """How many steps, at most `most`, all networks together can do in so many seconds, by the fastest of a few: in
    processor time, so that a moment in which the machine is busy with other things does not count."""
    each = 0.0
    for config in configs:
        training = Training(config)
        per_image = []
        for step in range(3):
            batch = batches[step]
            start = time.process_time()
            training.run_step(batch)
            per_image.append((time.process_time() - start) / torch.get_num_threads() / len(batch.images))
        each += min(per_image) * BASELINE.sets * (1 + MOST_SCANS) / 2  # images in a batch, on average
    return max(1, min(most, int(seconds / each)))


def report(rows: Sequence[Row], out: Path) -> None:
    """Print Dice by set size, say whether InterConv is above its baseline for every K > 1, write dice.csv and
    dice.png."""
    count = rows[0].dice.count
    print(f"Dice on {count} held-out subjects of {MOST_SCANS} scans (mean [95 % bootstrap CI over subjects]):")
    print(" K   baseline               InterConv              gain")
    larger: dict[int | None, float] = {}
    clearly = []
    for row in rows:
        assert row.baseline is not None
        assert row.gain is not None
        cells = [reports.interval_text(found) for found in (row.baseline, row.dice)]
        print(f"{row.set_size:2d}   {'   '.join(cells)}   {reports.interval_text(row.gain, '+')}")
        if row.set_size != 1:
            larger[row.set_size] = row.gain.mean
            clearly += [row.set_size] if row.gain.low > 0 else []
    above = [k for k, gain in larger.items() if gain > 0]
    verdict = (
        "is above its baseline for every K > 1"
        if above == list(larger)
        else f"is NOT above its baseline for every K > 1: only for {above}"
    )
    print(f"InterConv {verdict}; the interval of the gain excludes 0 for K = {clearly}.\n")
    write_text(out / "dice.csv", reports.rows_csv(rows, TISSUES[1:]))
    plots.dice_by_set_size(out / "dice.png", rows, ("SimpleUNet-InterConv", "SimpleUNet (baseline)"))


def report_step_time(interconv: nn.Module, batch: Batch, repeats: int = 7) -> None:
    """Print the time of a training step on this layer against the same network whose layers concatenate in plain
    torch."""
    concat = copy.deepcopy(interconv)
    for parent in list(concat.modules()):
        for key, child in parent.named_children():
            if isinstance(child, ik.InterConv2d):
                setattr(parent, key, EagerConcat2d(child, batch.sets))
    assert batch.masks is not None
    times: dict[str, list[float]] = {"InterConv": [], "concat": []}
    for _ in range(repeats + 1):
        for name, network in (("InterConv", interconv), ("concat", concat)):
            network.zero_grad()
            begin = time.perf_counter()
            automatic_loss(network(batch.inputs, batch.sets), batch.masks, batch.sets).backward()
            times[name].append(time.perf_counter() - begin)
    ours, theirs = (statistics.median(times[name][1:]) for name in ("InterConv", "concat"))
    print(
        f"Training step, sets of {list(batch.sets.lengths)}: {ours * 1e3:.0f} ms on InterConv2d, {theirs * 1e3:.0f} ms"
        f" on eager concat: {theirs / ours:.2f}x (medians of {repeats}, alternating)\n"
    )


class EagerConcat2d(nn.Module):
    """The layer as the paper's authors publish it, for ragged sets: mean, concatenation and convolution in plain
    torch."""

    def __init__(self, layer: ik.InterConv2d, sets: ik.Sets):
        super().__init__()
        self.weight, self.bias, self.padding = layer.weight, layer.bias, layer.padding
        self.lengths, self.set_ids = list(sets.lengths), sets.set_ids

    def forward(self, u: Tensor) -> Tensor:
        s = torch.stack([samples.mean(0) for samples in u.split(self.lengths)])
        return F.conv2d(torch.cat([u, s[self.set_ids]], dim=1), self.weight, self.bias, padding=self.padding)


def draw(path: Path, group: Group, baseline: Ensemble, interconv: Ensemble) -> None:
    """A subject's scans, the truth, and what both networks say when all scans are seen."""
    batch = collate([group])
    assert batch.masks is not None
    columns, dice = {"truth": batch.masks[:SHOWN]}, {}
    names = ("SimpleUNet", f"SimpleUNet-InterConv, K = {len(group.samples)}")
    for name, ensemble in zip(names, (baseline, interconv), strict=True):
        predicted = ensemble.probabilities(batch).argmax(1)
        columns[name] = predicted[:SHOWN]
        dice[name] = dice_of(predicted, batch.masks, len(TISSUES)).mean(1).tolist()
    plots.overlays(path, batch.images[:SHOWN, 0], columns, TISSUES[1:], dice)


if __name__ == "__main__":
    main()
