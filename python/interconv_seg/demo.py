"""The demo: does a network that sees the other scans of a subject segment each scan better?

`python -m interconv_seg.demo` trains SimpleUNet and SimpleUNet-InterConv ("replace", about the same number of
parameters) on the same ragged sets of simulated clinical scans and compares them on held-out subjects by set size. It
writes predictions.png, dice.png, dice.csv and the two runs.
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
from torch import nn

import interconv_kernels as ik
from interconv_kernels._files import write_text

from . import plots, reports
from .anatomy import HEIGHT, HELD_OUT_SLICES, TISSUES, TRAIN_SLICES, WIDTH, Template, simulate_subject
from .config import Config
from .data import Batch, Group, Sample, collate
from .evaluation import evaluate
from .inference import Ensemble
from .losses import automatic_loss
from .reports import ConditionSummary
from .runs import Run
from .seeding import random_of, seed_of
from .training import Training, train

SET_SIZES = (1, 2, 4, 8)
MAX_SCANS = 8
SHOWN_SCANS = 4  # in the picture
# Widths of about equal size: 54,039 and 52,860 parameters for three tissues. (For 21 classes the paper has 24 and 16.)
BASELINE = Config(
    mode="automatic",
    network="simpleunet",
    features=23,
    labels=dict(enumerate(TISSUES[1:], start=1)),
    size=(HEIGHT, WIDTH),
    sets_per_batch=2,
    set_sizes=(1, MAX_SCANS),
    augmentation="none",
    interval=100,
    learning_rate=3e-3,
    schedule="cosine",
)
INTERCONV = replace(BASELINE, interconv="replace", features=16)


def main() -> None:
    """Simulates, trains, compares and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps of each network (default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=4.0, help="train fewer steps if it takes longer (default: %(default)s)"
    )
    parser.add_argument("--subjects", type=int, default=24, help="held-out subjects (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="results folder (default: %(default)s)")
    args = parser.parse_args()

    print("Subjects are simulated: random smooth deformations of coronal slices of one template, MNI152 (nilearn).")
    print("Their scans are degraded as clinical scans are; the truth is the tissues of the clean slice.\n")
    template = Template.load()
    batches = SimulatedBatches(template, args.seed)
    configs = {name: replace(c, seed=args.seed) for name, c in (("baseline", BASELINE), ("InterConv", INTERCONV))}
    sizes = {name: sum(p.numel() for p in config.new_network().parameters()) for name, config in configs.items()}
    print(f"SimpleUNet 23: {sizes['baseline']:,} parameters; SimpleUNet-InterConv 16: {sizes['InterConv']:,}")
    steps = affordable_steps(list(configs.values()), batches, args.steps, args.minutes * 60)
    if steps < args.steps:
        print(f"{steps} steps instead of {args.steps}, to take {args.minutes:g} minutes.")

    validation = [batches[-1], batches[-2]]  # from the training slices: for the log, not for the comparison
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
    scores, baseline_scores = (evaluate(ensemble, groups, SET_SIZES) for ensemble in (interconv, baseline))
    report(reports.summarize(scores, baseline_scores, unit="subject"), args.out)
    report_step_time(runs["InterConv"].network, batches[0])
    draw(args.out / "predictions.png", groups[0], baseline, interconv)
    print(f"Pictures and table: {args.out}/predictions.png, dice.png, dice.csv")


class SimulatedBatches:
    """Batches of two new subjects, each with 1 to 8 scans. Batch `step` is a function of the seed and the step.

    Args:
        template: the anatomy.
        seed: of all random numbers.
    """

    def __init__(self, template: Template, seed: int):
        self.template, self.seed = template, seed

    def __getitem__(self, step: int) -> Batch:
        random = random_of(self.seed, "demo", step)
        groups = []
        for i in range(BASELINE.sets_per_batch):
            position, scans = random.choice(TRAIN_SLICES), random.integers(1, MAX_SCANS + 1)
            name = f"{step}/{i}"
            groups.append(simulate_group(self.template, name, int(position), int(scans), seed_of(self.seed, name)))
        return collate(groups)


def simulate_group(template: Template, name: str, position: int, scans: int, seed: int) -> Group:
    """The scans of a simulated subject, all with the same truth.

    Args:
        template: the anatomy.
        name: of the subject.
        position: of the coronal slice.
        scans: the number of scans.
        seed: of all random numbers.
    """
    images, tissues = simulate_subject(template, position, scans, torch.Generator().manual_seed(seed))
    mask = tissues.to(torch.int16)
    samples = [Sample(f"{name}/{i}", name, "MNI152", image, mask, (HEIGHT, WIDTH)) for i, image in enumerate(images)]
    return Group(name, tuple(samples))


def held_out_groups(template: Template, count: int, seed: int) -> list[Group]:
    """Subjects with 8 scans each: new deformations of slices that are not used in training.

    Args:
        template: the anatomy.
        count: the number of subjects.
        seed: of all random numbers.
    """
    positions = [HELD_OUT_SLICES[i % len(HELD_OUT_SLICES)] for i in range(count)]
    return [
        simulate_group(template, f"held out {i}", position, MAX_SCANS, seed_of(seed, "held out", i))
        for i, position in enumerate(positions)
    ]


def affordable_steps(configs: Sequence[Config], batches: SimulatedBatches, max_steps: int, seconds: float) -> int:
    """The number of steps that fit into a time, for training all networks one after the other.

    It is estimated from the fastest of a few steps, in processor time, which other processes hardly affect.

    Args:
        configs: of the networks.
        batches: of training.
        max_steps: the largest result.
        seconds: the time.
    """
    seconds_per_step = 0.0
    for config in configs:
        training = Training(config)
        per_image = []
        for step in range(3):
            batch = batches[step]
            start = time.process_time()
            training.run_step(batch)
            per_image.append((time.process_time() - start) / torch.get_num_threads() / len(batch.images))
        mean_images = BASELINE.sets_per_batch * (1 + MAX_SCANS) / 2
        seconds_per_step += min(per_image) * mean_images
    return max(1, min(max_steps, int(seconds / seconds_per_step)))


def report(summaries: Sequence[ConditionSummary], out: Path) -> None:
    """Prints Dice by set size and whether InterConv is above its baseline for every K > 1; writes dice.csv, dice.png.

    Args:
        summaries: one for each set size, with a baseline.
        out: the folder for the files.
    """
    count = summaries[0].dice.count
    print(f"Dice on {count} held-out subjects of {MAX_SCANS} scans (mean [95 % bootstrap CI over subjects]):")
    print(" K   baseline               InterConv              gain")
    gains: dict[int | None, float] = {}
    significant = []
    for summary in summaries:
        assert summary.baseline is not None
        assert summary.gain is not None
        cells = [reports.interval_text(found) for found in (summary.baseline, summary.dice)]
        print(f"{summary.set_size:2d}   {'   '.join(cells)}   {reports.interval_text(summary.gain, '+')}")
        if summary.set_size != 1:
            gains[summary.set_size] = summary.gain.mean
            significant += [summary.set_size] if summary.gain.low > 0 else []
    above = [k for k, gain in gains.items() if gain > 0]
    verdict = (
        "is above its baseline for every K > 1"
        if above == list(gains)
        else f"is NOT above its baseline for every K > 1: only for {above}"
    )
    print(f"InterConv {verdict}; the interval of the gain excludes 0 for K = {significant}.\n")
    write_text(out / "dice.csv", reports.summary_csv(summaries, TISSUES[1:]))
    plots.dice_by_set_size(out / "dice.png", summaries, ("SimpleUNet-InterConv", "SimpleUNet (baseline)"))


def report_step_time(interconv: nn.Module, batch: Batch, repeats: int = 7) -> None:
    """Prints the time of a training step, and of the same step with the authors' layer in plain torch.

    Args:
        interconv: the network.
        batch: with masks.
        repeats: timed steps of each.
    """
    concat = copy.deepcopy(interconv)
    for parent in list(concat.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ik.InterConv2d):
                setattr(parent, name, ik.reference.ConcatInterConv2d.from_layer(child))
    assert batch.masks is not None
    times: dict[str, list[float]] = {"InterConv": [], "concat": []}
    for _ in range(repeats + 1):
        for name, network in (("InterConv", interconv), ("concat", concat)):
            network.zero_grad()
            start = time.perf_counter()
            automatic_loss(network(batch.inputs, batch.sets), batch.masks, batch.sets).backward()
            times[name].append(time.perf_counter() - start)
    ours, theirs = (statistics.median(times[name][1:]) for name in ("InterConv", "concat"))
    print(
        f"Training step, sets of {list(batch.sets.lengths)}: {ours * 1e3:.0f} ms with InterConv2d,"
        f" {theirs * 1e3:.0f} ms with concatenation in plain torch,"
        f" speedup {theirs / ours:.2f} (medians of {repeats}, interleaved)\n"
    )


def draw(path: Path, group: Group, baseline: Ensemble, interconv: Ensemble) -> None:
    """Draws scans of a subject with the truth and the predictions of both networks from all its scans.

    Args:
        path: the PNG file.
        group: the subject.
        baseline: the baseline.
        interconv: the InterConv network.
    """
    batch = collate([group])
    assert batch.masks is not None
    titles = ("SimpleUNet", f"SimpleUNet-InterConv, K = {len(group.samples)}")
    predictions = {
        title: ensemble.probabilities(batch).argmax(1)[:SHOWN_SCANS]
        for title, ensemble in zip(titles, (baseline, interconv), strict=True)
    }
    plots.overlays(path, batch.images[:SHOWN_SCANS, 0], batch.masks[:SHOWN_SCANS], predictions, TISSUES[1:])


if __name__ == "__main__":
    main()
