"""A training step of whole networks: ours against the same network on eager concat. `python -m benchmarks.networks`

A step is forward + loss + backward of SimpleUNet-InterConv or nnUNet-InterConv (replace), in four forms that take
turns (A B C D A B C D ...): with InterConv2d, and with the authors' layer (mean, concatenation, convolution in plain
torch) in its place; each as it is and under torch.compile. Losses and gradients are checked against each other before
anything is timed; figures are medians of one run.

Memory is the peak resident memory of a fresh process that makes three such steps, less what it held before the first
(its weights included): Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from interconv_seg import automatic_loss, build
from interconv_seg.networks import SetNetwork
from torch import Tensor, nn

import interconv_kernels as ik

from .results import processor, write_csv

# name -> (family, features)
NETWORKS: dict[str, tuple[str, int | tuple[int, ...]]] = {
    "SimpleUNet-InterConv 16": ("simpleunet", 16),
    "SimpleUNet-InterConv 49": ("simpleunet", 49),
    "nnUNet-InterConv 23": ("nnunet", (23, 46, 92, 184, 368, 368)),
}
CLASSES = 21
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


class EagerConcat(nn.Module):
    """The layer as the paper's authors publish it, for ragged sets."""

    def __init__(self, layer: ik.InterConv2d, lengths: list[int]):
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.stride, self.padding = layer.stride, layer.padding
        self.lengths = lengths

    def forward(self, u: Tensor) -> Tensor:
        means = [samples.mean(0, keepdim=True).expand_as(samples) for samples in u.split(self.lengths)]
        return F.conv2d(torch.cat([u, torch.cat(means)], dim=1), self.weight, self.bias, self.stride, self.padding)


def make(name: str, form: str, lengths: list[int], fmt: str) -> SetNetwork:
    """A network in one form ("ours" or "concat"), always with the same weights."""
    family, features = NETWORKS[name]
    torch.manual_seed(0)
    network = build(family, "replace", classes=CLASSES, features=features).train()
    if form == "concat":
        for parent in list(network.modules()):
            for key, child in parent.named_children():
                if isinstance(child, ik.InterConv2d):
                    setattr(parent, key, EagerConcat(child, lengths))
    return network.to(memory_format=FORMATS[fmt])  # type: ignore[call-overload]


def make_step(
    network: nn.Module, lengths: list[int], size: tuple[int, int], fmt: str, compiled: bool
) -> Callable[[], Tensor]:
    """One training step on fixed images: returns the loss, leaves gradients."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn((sum(lengths), 1, *size), generator=random).contiguous(memory_format=FORMATS[fmt])
    masks = torch.randint(CLASSES, (sum(lengths), *size), generator=random)
    sets = ik.Sets.from_lengths(lengths)
    call = torch.compile(network) if compiled else network

    def step() -> Tensor:
        network.zero_grad()
        loss = automatic_loss(call(x, sets), masks, sets)
        loss.backward()
        return loss.detach()

    return step


def measure_time(
    name: str, lengths: list[int], size: tuple[int, int], fmt: str, compile_too: bool, repeats: int
) -> dict[str, float]:
    """Median seconds of a step in each form."""
    steps, gradients, losses = {}, {}, {}
    for compiled in (False, True)[: 1 + compile_too]:
        for form in ("ours", "concat"):
            network = make(name, form, lengths, fmt)
            label = form + (" compiled" if compiled else "")
            steps[label] = make_step(network, lengths, size, fmt, compiled)
            losses[label] = float(steps[label]())  # warms up, too
            # nnUNet's coarsest head has weight 0 in the loss: no gradient, or zeros under torch.compile
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
            gradients[label] = torch.cat([grad.flatten() for grad in grads])
    for label in steps:
        wrong = float((gradients[label] - gradients["concat"]).norm() / gradients["concat"].norm())
        if not (abs(losses[label] / losses["concat"] - 1) < 1e-4 and wrong < 1e-2):
            raise SystemExit(f"{name}, {label}: the step differs from concat's, gradients by {wrong:.1e}: not timed")
    times: dict[str, list[float]] = {label: [] for label in steps}
    for _ in range(repeats):
        for label, step in steps.items():
            start = time.perf_counter()
            step()
            times[label].append(time.perf_counter() - start)
    return {label: statistics.median(values) for label, values in times.items()}


def measure_memory(name: str, form: str, lengths: list[int], size: tuple[int, int], fmt: str, compiled: bool) -> float:
    """Bytes that three steps add at most to a fresh process's resident memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, form, lengths, size, fmt, compiled))


def _peak(name: str, form: str, lengths: list[int], size: tuple[int, int], fmt: str, compiled: bool) -> float:
    step = make_step(make(name, form, lengths, fmt), lengths, size, fmt, compiled)
    if compiled:
        step()  # compiling takes memory too, but once
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    for _ in range(3):
        step()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return 1024 * float(line.split()[1])


def main() -> None:
    """Measure each network and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--lengths", type=int, nargs="+", default=[3, 5, 8], help="the sets (default %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], help="H W (default %(default)s)")
    parser.add_argument("--formats", nargs="+", default=["channels_last"], choices=list(FORMATS))
    parser.add_argument("--compile", action="store_true", help="torch.compile as well, which takes minutes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/benchmark_networks.csv"))
    args = parser.parse_args()
    size = (args.size[0], args.size[1])
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}", end="")
    print(f"; sets of {args.lengths}, {size[0]} x {size[1]}, medians of {args.repeats}")
    rows = []
    for name in args.networks:
        for fmt in args.formats:
            seconds = measure_time(name, args.lengths, size, fmt, args.compile, args.repeats)
            for suffix in ("", " compiled")[: 1 + args.compile]:
                ours, concat = (seconds[form + suffix] for form in ("ours", "concat"))
                memory = [
                    measure_memory(name, form, args.lengths, size, fmt, bool(suffix)) for form in ("ours", "concat")
                ]
                print(
                    f"{name}, {fmt}{',' if suffix else ''}{suffix}: {1e3 * ours:.0f} ms against {1e3 * concat:.0f} ms:"
                    f" {concat / ours:.2f}x; memory {memory[0] / 2**20:.0f} MiB against {memory[1] / 2**20:.0f} MiB:"
                    f" {memory[0] / memory[1]:.2f}x",
                    flush=True,
                )
                rows.append(
                    {"network": name, "format": fmt, "compiled": bool(suffix), "seconds": ours, "concat": concat}
                    | {"bytes": memory[0], "concat_bytes": memory[1], "repeats": args.repeats}
                )
    write_csv(args.out, rows)


if __name__ == "__main__":
    main()
