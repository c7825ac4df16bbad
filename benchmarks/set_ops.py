"""Set mean and per-set add on ragged sets, backend "cpp" against eager torch. `python -m benchmarks set-ops`

Each peer is written in the best way we know; results are checked before timing; forms take turns (A B C A B C ...) and
figures are medians of one run. Bandwidth counts each input read once and each output written once, and is given as a
share of what a copy of the same packed tensor reaches in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import interconv_kernels as ik

from .timing import take_turns

LENGTHS = {
    "ragged": [1, 2, 7, 16, 3, 1, 4, 12, 2, 8, 1, 7],
    "small": [2, 1, 3, 1, 2, 2, 1, 4] * 4,
    "one large": [64],
}
SIZES = {"64 x 64x64": (64, 64, 64), "16 x 32x32": (16, 32, 32)}
Form = Callable[[], Tensor]


def mean_forms(u: Tensor, sets: ik.Sets) -> dict[str, Form]:
    """[B,...], the set means."""
    lengths, ids, borders = list(sets.lengths), sets.set_ids.long(), sets.offsets.long()
    shape = (len(sets), *u.shape[1:])
    sizes = torch.tensor(lengths, dtype=u.dtype).view(-1, 1, 1, 1)

    def indexed() -> Tensor:
        return u.new_zeros(shape).index_add_(0, ids, u).div_(sizes)

    return {
        "ours": lambda: torch.ops.interconv.set_reduce(u, sets.offsets, sets.set_ids, True, "cpp"),
        "loop of means": lambda: torch.stack([part.mean(0) for part in u.split(lengths)]),
        "index_add": indexed,
        "segment_reduce": lambda: torch.segment_reduce(u, "mean", offsets=borders, axis=0),
    }


def add_forms(u: Tensor, sets: ik.Sets) -> dict[str, Form]:
    """[N,...], u plus its set's row of t."""
    lengths, ids = list(sets.lengths), sets.set_ids.long()
    t = torch.randn(len(sets), *u.shape[1:]).to(u.dtype)

    def loop() -> Tensor:
        out = torch.empty_like(u)
        for part, row, target in zip(u.split(lengths), t, out.split(lengths), strict=True):
            torch.add(part, row, out=target)
        return out

    return {
        "ours": lambda: torch.ops.interconv.set_add(u, t, sets.offsets, sets.set_ids, False, "cpp"),
        "loop of adds": loop,
        "index_select": lambda: u + t.index_select(0, ids),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line for each operation, dtype, shape and mix of sets."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks set-ops", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args(argv)
    print("op    dtype     sets       size         ours ms  best eager           ratio  of copy bandwidth")
    for op, make in (("mean", mean_forms), ("add", add_forms)):
        for dtype in (torch.float32, torch.bfloat16):
            for sets_name, lengths in LENGTHS.items():
                for size_name, size in SIZES.items():
                    sets = ik.Sets.from_lengths(lengths)
                    u = torch.randn(sum(lengths), *size).to(dtype)
                    forms = make(u, sets)
                    want = forms["ours"]().float()
                    for name, form in forms.items():
                        torch.testing.assert_close(form().float(), want, rtol=0.05, atol=0.05, msg=name)
                    spare = torch.empty_like(u)
                    forms["copy"] = lambda spare=spare, u=u: spare.copy_(u)  # type: ignore[misc]
                    times = take_turns(forms, args.repeats, torch.device("cpu"))
                    ms = {name: 1e3 * timing.p50 for name, timing in times.items()}
                    peer = min((name for name in forms if name not in ("ours", "copy")), key=lambda name: ms[name])
                    moved = len(u) + len(sets) + (len(u) if op == "add" else 0)
                    share = (moved / ms["ours"]) / (2 * len(u) / ms["copy"])
                    kind = str(dtype).removeprefix("torch.")
                    print(
                        f"{op:5} {kind:9} {sets_name:10} {size_name:12} {ms['ours']:7.3f}  {peer:14} {ms[peer]:7.3f}"
                        f"  {ms[peer] / ms['ours']:5.2f}  {share:5.0%}"
                    )


if __name__ == "__main__":
    main()
