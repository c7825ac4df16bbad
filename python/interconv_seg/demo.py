"""The demo: does a network that sees a subject's other scans segment each of them better? `python -m
interconv_seg.demo`

Trains SimpleUNet and SimpleUNet-InterConv (replace; about the same number of parameters) on the same ragged sets of
simulated clinical scans, then compares them on held-out subjects by set size. Writes predictions.png, dice.png and
dice.csv.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from monai.metrics import compute_dice
from scipy.stats import bootstrap
from torch import Tensor, nn
from tqdm import tqdm

import interconv_kernels as ik

from . import plots
from .anatomy import HELD_OUT_SLICES, TISSUES, TRAIN_SLICES, Template, simulate_subject
from .networks import SimpleUNet

SET_SIZES = (1, 2, 4, 8)
MOST_SCANS = 8
SUBJECTS_PER_STEP = 2
# Widths of equal cost: 54,039 and 52,860 parameters with three tissues. (With 21 classes the paper pairs 24 with 16.)
FEATURES, INTERCONV_FEATURES = 23, 16


def main() -> None:
    """Simulate, train, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps of each network (default %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=4.0, help="stop training after this long, if sooner (default %(default)s)"
    )
    parser.add_argument("--subjects", type=int, default=24, help="held-out subjects (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for the results (default %(default)s)"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)

    print(
        "Subjects are simulated: random smooth deformations of coronal slices of one template, MNI152 (from nilearn)."
    )
    print("Their scans are degraded as clinical scans are; the clean slice's tissues are the truth.\n")
    template = Template.load()
    baseline, interconv = build_networks()
    print(
        f"SimpleUNet {FEATURES}: {_parameters(baseline):,} parameters;"
        f" SimpleUNet-InterConv {INTERCONV_FEATURES}: {_parameters(interconv):,}"
    )

    train(baseline, interconv, template, args.steps, args.minutes * 60, args.seed)
    subjects = held_out_subjects(template, args.subjects, args.seed)
    scores = evaluate(baseline, interconv, subjects)
    report(scores, args.out)
    report_step_time(interconv, template, args.seed)
    images, tissues = subjects[0]
    plots.predictions(
        args.out / "predictions.png", images, tissues, predict(baseline, images), predict(interconv, images, MOST_SCANS)
    )
    print(f"Pictures and table: {args.out}/predictions.png, dice.png, dice.csv")


def build_networks() -> tuple[nn.Module, ik.SetModel]:
    """The baseline, and the InterConv network that takes its sets beside x; channels_last, the faster format for
    both."""
    baseline = SimpleUNet(1, len(TISSUES), FEATURES)
    unet = SimpleUNet(1, len(TISSUES), INTERCONV_FEATURES)
    interconv = ik.SetModel(ik.replace_with_interconv(unet, keep_outputs=False).model)
    for network in (baseline, interconv):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return baseline, interconv


def sample_batch(template: Template, random: torch.Generator) -> tuple[Tensor, Tensor, ik.Sets]:
    """A ragged batch: each subject with 1 to 8 scans. Images [N,1,H,W], tissues [N,1,H,W], sets."""
    images, tissues, lengths = [], [], []
    for _ in range(SUBJECTS_PER_STEP):
        position = TRAIN_SLICES[int(torch.randint(len(TRAIN_SLICES), (), generator=random))]
        scans = int(torch.randint(1, MOST_SCANS + 1, (), generator=random))
        subject, truth = simulate_subject(template, position, scans, random)
        images.append(subject)
        tissues.append(truth.expand(scans, 1, *truth.shape))
        lengths.append(scans)
    return torch.cat(images), torch.cat(tissues), ik.Sets.from_lengths(lengths)


def train(
    baseline: nn.Module, interconv: ik.SetModel, template: Template, steps: int, budget: float, seed: int
) -> None:
    """Train both networks on the same batches, step by step, for `steps` or `budget` seconds."""
    random = torch.Generator().manual_seed(seed)
    loss_of = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    networks = {"baseline": baseline, "InterConv": interconv}
    optimizers = {name: torch.optim.Adam(network.parameters(), lr=3e-3) for name, network in networks.items()}
    seconds, losses = dict.fromkeys(networks, 0.0), dict.fromkeys(networks, math.nan)
    start = time.perf_counter()
    with tqdm(total=steps, desc="training both", unit="step") as bar:
        for step in range(steps):
            progress = max(step / steps, (time.perf_counter() - start) / budget)
            if progress >= 1:
                break
            images, tissues, sets = sample_batch(template, random)
            for name, network in networks.items():
                begin = time.perf_counter()
                optimizer = optimizers[name]
                optimizer.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * progress))
                logits = network(images) if name == "baseline" else network(images, sets)
                loss = loss_of(logits, tissues)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seconds[name] += time.perf_counter() - begin
                value = loss.item()
                losses[name] = value if math.isnan(losses[name]) else 0.95 * losses[name] + 0.05 * value
            bar.update()
            bar.set_postfix({f"{name} loss": f"{value:.3f}" for name, value in losses.items()})
        done = bar.n
    if done < steps:
        print(f"Stopped at {done} of {steps} steps: {budget / 60:g} minutes are over.")
    print(f"{done} steps each: baseline {seconds['baseline']:.0f} s, InterConv {seconds['InterConv']:.0f} s.\n")


def held_out_subjects(template: Template, count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """New deformations at slice positions that training never saw, each with 8 scans."""
    random = torch.Generator().manual_seed(10_000 + seed)
    return [
        simulate_subject(template, HELD_OUT_SLICES[i % len(HELD_OUT_SLICES)], MOST_SCANS, random) for i in range(count)
    ]


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, set_size: int | None = None) -> Tensor:
    """Tissues int64 [N,H,W] of one subject's images, in sets of `set_size` for a network that takes sets."""
    network.eval()
    logits = network(images) if set_size is None else network(images, set_size)
    return logits.argmax(1)


def evaluate(
    baseline: nn.Module, interconv: ik.SetModel, subjects: list[tuple[Tensor, Tensor]]
) -> dict[str, np.ndarray]:
    """Mean Dice over grey and white matter and over a subject's 8 scans, for each subject: "baseline" [subjects] (which
    does not depend on K) and "InterConv" [set sizes, subjects]. For set size K the same 8 scans are taken as 8/K
    sets."""
    base = [_dice(predict(baseline, images), tissues) for images, tissues in subjects]
    inter = [[_dice(predict(interconv, images, k), tissues) for images, tissues in subjects] for k in SET_SIZES]
    return {"baseline": np.array(base), "InterConv": np.array(inter)}


def _dice(predicted: Tensor, tissues: Tensor) -> float:
    guess, truth = (F.one_hot(x, len(TISSUES)).movedim(-1, 1) for x in (predicted, tissues.expand_as(predicted)))
    return float(compute_dice(guess, truth, include_background=False).mean())


def _interval(values: np.ndarray) -> tuple[float, float]:
    """95 % confidence interval of the mean, by 1,000 bootstrap runs over subjects."""
    result = bootstrap((values,), np.mean, n_resamples=1000, method="percentile", rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def report(scores: dict[str, np.ndarray], out: Path) -> None:
    """Print Dice by set size, say whether InterConv is above its baseline for every K > 1, write dice.csv and
    dice.png."""
    rows = []
    base = scores["baseline"]
    for k, inter in zip(SET_SIZES, scores["InterConv"], strict=True):
        gain = inter - base
        rows.append((k, base.mean(), *_interval(base), inter.mean(), *_interval(inter), gain.mean(), *_interval(gain)))
    print(f"Dice on {len(base)} held-out subjects of {MOST_SCANS} scans (mean [95 % bootstrap CI over subjects]):")
    print(" K   baseline               InterConv              gain")
    for k, *figures in rows:
        cells = [f"{mean:6.3f} [{low:6.3f},{high:6.3f}]" for mean, low, high in zip(*[iter(figures)] * 3, strict=True)]
        print(f"{k:2d}  {'  '.join(cells)}")
    above = [k for k, *figures in rows if k > 1 and figures[6] > 0]
    clearly = [k for k, *figures in rows if k > 1 and figures[7] > 0]
    wanted = [k for k in SET_SIZES if k > 1]
    verdict = (
        "is above its baseline for every K > 1"
        if above == wanted
        else f"is NOT above its baseline for every K > 1: only for {above}"
    )
    print(f"InterConv {verdict}; the interval of the gain excludes 0 for K = {clearly}.\n")
    names = ["K"] + [f"{what}_{part}" for what in ("baseline", "interconv", "gain") for part in ("mean", "low", "high")]
    plots.write_text(
        out / "dice.csv", "\n".join([",".join(names)] + [",".join(f"{x:.6g}" for x in row) for row in rows]) + "\n"
    )
    plots.dice_by_set_size(out / "dice.png", np.array(rows))


def report_step_time(interconv: ik.SetModel, template: Template, seed: int, repeats: int = 7) -> None:
    """Print the time of a training step on this layer against the same network whose layers concatenate in plain
    torch."""
    images, tissues, sets = sample_batch(template, torch.Generator().manual_seed(seed + 1))
    concat = copy.deepcopy(interconv)
    for parent in list(concat.modules()):
        for key, child in parent.named_children():
            if isinstance(child, ik.InterConv2d):
                setattr(parent, key, EagerConcat2d(child, sets))
    loss_of = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    times: dict[str, list[float]] = {"InterConv": [], "concat": []}
    for _ in range(repeats + 1):
        for name, network in (("InterConv", interconv), ("concat", concat)):
            network.zero_grad()
            begin = time.perf_counter()
            loss_of(network(images, sets), tissues).backward()
            times[name].append(time.perf_counter() - begin)
    ours, theirs = (statistics.median(times[name][1:]) for name in ("InterConv", "concat"))
    print(
        f"Training step, sets of {list(sets.lengths)}: {ours * 1e3:.0f} ms on InterConv2d, {theirs * 1e3:.0f} ms on"
        f" eager concat: {theirs / ours:.2f}x (medians of {repeats}, alternating)\n"
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


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


if __name__ == "__main__":
    main()
