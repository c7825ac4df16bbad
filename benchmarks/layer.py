"""One InterConv layer, forward and backward, against eager torch on the same work. `python -m benchmarks.layer`

Peers: `concat`, the authors' layer (mean, expand, cat, conv), and `eager split`, the algebra conv(u; Wu) + conv(s; Ws)
in plain torch autograd, each on dense sets [B,K] of equal size. Ours: interconv2d on the same values, by default with
algorithm "auto". Results are checked against `concat` before timing. All forms take turns (A B C A B C ...); figures
are medians of one run.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import interconv_kernels as ik

from .results import processor, write_csv

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
# H x W by channels: where the paper's networks have about that many (SimpleUNet at full size, nnUNet's second stage,
# ScribblePrompt).
SIZES = {16: (160, 192), 64: (80, 96), 192: (64, 64)}
Form = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def concat(u: Tensor, weight: Tensor, bias: Tensor, k: int) -> Tensor:
    """The authors' layer."""
    x = u.unflatten(0, (-1, k))
    s = x.mean(1, keepdim=True)
    c = torch.cat([x, s.expand_as(x)], dim=2).flatten(0, 1)
    return F.conv2d(c, weight, bias, padding=weight.shape[2] // 2)


def eager_split(u: Tensor, weight: Tensor, bias: Tensor, k: int) -> Tensor:
    """conv(u; Wu) + [conv(s; Ws) + b] in plain torch."""
    channels, padding = u.shape[1], weight.shape[2] // 2
    s = u.unflatten(0, (-1, k)).mean(1)
    t = F.conv2d(s, weight[:, channels:], bias, padding=padding)
    own = F.conv2d(u, weight[:, :channels], padding=padding)
    return (own.unflatten(0, (-1, k)) + t.unsqueeze(1)).flatten(0, 1)


def ours(algorithm: str) -> Form:
    """interconv2d with sets made once, outside the timed part, as a network makes them once a batch."""
    made: dict[int, ik.Sets] = {}

    def form(u: Tensor, weight: Tensor, bias: Tensor, k: int) -> Tensor:
        if k not in made:
            made[k] = ik.Sets.from_size(k, u.shape[0])
        return ik.interconv2d(u, weight, bias, made[k], algorithm=algorithm)  # type: ignore[arg-type]

    return form


def measure(
    forms: dict[str, Form], inputs: tuple[Tensor, Tensor, Tensor], k: int, g: Tensor, repeats: int
) -> dict[str, tuple[float, float]]:
    """Median seconds (forward, backward) of each form, taking turns, after one round of warm-up and the check."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    want: list[Tensor] = []
    for turn in range(repeats + 1):
        for name, form in forms.items():
            start = time.perf_counter()
            y = form(*inputs, k)
            middle = time.perf_counter()
            grads = torch.autograd.grad(y, inputs, g)
            end = time.perf_counter()
            if turn:
                times[name].append((middle - start, end - middle))
            else:
                got = [y.detach(), *grads]
                want = want or got
                for a, b in zip(got, want, strict=True):
                    error = float((a.double() - b.double()).abs().max() / b.double().abs().max())
                    if not error < torch.finfo(a.dtype).eps ** 0.5:
                        raise SystemExit(f"{name} differs from concat by {error:.1e}: not timed")
            del y, grads
    return {name: (statistics.median(f for f, _ in t), statistics.median(b for _, b in t)) for name, t in times.items()}


def saved_bytes(form: Form, inputs: tuple[Tensor, Tensor, Tensor], k: int) -> int:
    """Bytes that the form keeps for its backward beside its inputs (which are alive anyway)."""
    known = {x.untyped_storage().data_ptr() for x in inputs}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known and x.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = form(*inputs, k)
    total = sum(kept.values())
    del y
    return total


def main() -> None:
    """Run the grid and print a line for each shape, then the geometric means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--set-sizes", type=int, nargs="+", default=[1, 2, 8, 32])
    parser.add_argument("--kernels", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--algorithms", nargs="+", default=["auto"], help="of ours: auto, split, centered, concat")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--samples", type=int, default=16, help="N, or the set size where that is larger (default %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--size", type=int, nargs=2, help="H W for all; default " + str(SIZES))
    parser.add_argument("--out", type=Path, default=Path("out/benchmark_layer.csv"))
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    where = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": processor(),
        "commit": commit,
        "dtype": args.dtype,
    }
    print(", ".join(f"{key} {value}" for key, value in where.items()))
    forms: dict[str, Form] = {
        "concat": concat,
        "eager split": eager_split,
        **{name: ours(name) for name in args.algorithms},
    }
    headings = "  ".join(f"{name + ' ms':>14}" for name in forms)
    print(f"{'C':>4} {'H x W':>9} {'k':>2} {'format':>13} {'K':>3}  {headings}   of ours: x concat, x eager split")
    rows = []
    for channels, kernel, fmt, k in itertools.product(args.channels, args.kernels, FORMATS, args.set_sizes):
        n, size = max(args.samples, k), tuple(args.size or SIZES.get(channels, (64, 64)))
        torch.manual_seed(0)
        u, g = (torch.randn(n, channels, *size, dtype=dtype).contiguous(memory_format=FORMATS[fmt]) for _ in range(2))
        weight = torch.randn(channels, 2 * channels, kernel, kernel, dtype=dtype) / (2 * channels * kernel**2) ** 0.5
        inputs = (u, weight.contiguous(memory_format=FORMATS[fmt]), torch.randn(channels, dtype=dtype))
        for x in inputs:
            x.requires_grad_()
        seconds = {name: sum(t) for name, t in measure(forms, inputs, k, g, args.repeats).items()}
        ratios = {
            name: (seconds["concat"] / seconds[name], seconds["eager split"] / seconds[name])
            for name in args.algorithms
        }
        saved = {name: saved_bytes(form, inputs, k) for name, form in forms.items()}
        cells = "  ".join(f"{1e3 * s:14.1f}" for s in seconds.values())
        shown = ", ".join(f"{a:.2f} {b:.2f}" for a, b in ratios.values())
        print(f"{channels:4d} {size[0]:4d}x{size[1]:<4d} {kernel:2d} {fmt:>13} {k:3d}  {cells}   {shown}", flush=True)
        for name in args.algorithms:
            rows.append(
                {
                    "channels": channels,
                    "height": size[0],
                    "width": size[1],
                    "kernel": kernel,
                    "format": fmt,
                    "set_size": k,
                    "samples": n,
                }
                | {
                    "form": name,
                    "seconds": seconds[name],
                    "concat": seconds["concat"],
                    "eager_split": seconds["eager split"],
                }
                | {"saved_bytes": saved[name], "concat_saved_bytes": saved["concat"], "u_bytes": u.nbytes, **where}
            )
    for name in args.algorithms:
        _summary(name, [row for row in rows if row["form"] == name])
    write_csv(args.out, rows)


def _summary(name: str, rows: list[dict[str, float]]) -> None:
    def mean(values: list[float]) -> float:
        return math.exp(statistics.fmean(map(math.log, values)))

    against_concat = [row["concat"] / row["seconds"] for row in rows]
    against_better = [min(row["concat"], row["eager_split"]) / row["seconds"] for row in rows]
    print(
        f"\n{name}: forward + backward, geometric mean over {len(rows)} shapes: {mean(against_concat):.2f}x concat",
        end="",
    )
    print(f", {mean([row['eager_split'] / row['seconds'] for row in rows]):.2f}x eager split")
    for k in sorted({row["set_size"] for row in rows}):
        of_size = [ratio for ratio, row in zip(against_concat, rows, strict=True) if row["set_size"] == k]
        print(f"  K = {k}: {mean(of_size):.2f}x concat")
    print(f"  least against the better of the two: {min(against_better):.2f}x")
    extra = max(row["saved_bytes"] / row["concat_saved_bytes"] for row in rows)
    with_u = max((row["saved_bytes"] + row["u_bytes"]) / row["concat_saved_bytes"] for row in rows)
    print(
        f"  saved for backward beside the inputs: {extra:.2f} of concat's at most"
        f" ({with_u:.2f} if u is counted to this layer)"
    )


if __name__ == "__main__":
    main()
