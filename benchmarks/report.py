"""What was measured, as tables for a terminal: a line for each case, then geometric means over all of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from .peers import CONCAT, OURS, SPLIT
from .results import Results, Row

Key = tuple[str, str]  # a case in a direction
TITLES = {"fwd": "forward", "bwd": "backward", "both": "forward + backward"}
BEHIND = 0.95  # the aim: no case below
WIDE = 64  # channels from which a 3x3 layer is judged by its arithmetic


def make_console() -> Console:
    """As wide as the terminal; wide enough for the tables where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=180, highlight=False)


def best_layouts(rows: Iterable[Row]) -> dict[Key, dict[str, Row]]:
    """For each case and direction, each form's row in its better layout."""
    best: dict[Key, dict[str, Row]] = {}
    for row in rows:
        forms = best.setdefault((row.case, row.direction), {})
        if row.form not in forms or row.p50 < forms[row.form].p50:
            forms[row.form] = row
    return best


def fastest(forms: Mapping[str, Row], names: Sequence[str]) -> Row | None:
    """The fastest of the named forms, if any was measured."""
    return min((forms[name] for name in names if name in forms), key=lambda row: row.p50, default=None)


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean logarithm."""
    return math.exp(statistics.fmean(map(math.log, values)))


def print_case(console: Console, rows: Sequence[Row]) -> None:
    """One line for each direction of a case as soon as it was measured."""
    for (case, direction), forms in best_layouts(rows).items():
        parts = []
        for name, row in forms.items():
            ratio = f" {row.p50 / forms[OURS].p50:.2f}x" if OURS in forms and name != OURS else ""
            parts.append(f"{name} {1e3 * row.p50:.2f} ms{ratio}")
        console.print(f"{case} {direction}: {', '.join(parts)}", markup=False, soft_wrap=True)


def print_report(console: Console, results: Results) -> None:
    """The table and the means."""
    console.print(table(results))
    for line in summary(results):
        console.print(line, markup=False)


def table(results: Results) -> Table:
    """A line for each case and direction: ours, and the better peer of each kind."""
    made = Table(title="Medians in ms of each form's better layout (* channels_last)", pad_edge=False)
    made.add_column("case", no_wrap=True)
    headings = ("direction", "ours", "p20-p80", "concat", "split", "x concat", "x split")
    for heading in (*headings, "GFLOP/s", "GB/s", "of floor", "MB", "of concat's"):
        made.add_column(heading, justify="right")
    for (case, direction), forms in best_layouts(results.rows).items():
        ours, concat, split = (fastest(forms, names) for names in ((OURS,), CONCAT, SPLIT))
        cells = [_milliseconds(ours), f"{1e3 * ours.p20:.2f}-{1e3 * ours.p80:.2f}" if ours else ""]
        cells += [_milliseconds(concat), _milliseconds(split)]
        cells += [f"{peer.p50 / ours.p50:.2f}" if peer and ours else "" for peer in (concat, split)]
        if ours:
            cells += [f"{ours.flops / ours.p50 / 1e9:.0f}", f"{ours.bytes / ours.p50 / 1e9:.1f}"]
            cells += [f"{results.of_floor(ours):.0%}", f"{ours.peak_bytes / 1e6:.1f}"]
            cells += [f"{ours.peak_bytes / concat.peak_bytes:.2f}"] if concat else []
        made.add_row(case, direction, *cells)
    return made


def _milliseconds(row: Row | None) -> str:
    return "" if row is None else f"{1e3 * row.p50:.2f}{'*' if row.layout == 'channels_last' else ' '}"


def summary(results: Results) -> list[str]:
    """Geometric means of ours, direction by direction; each form in its better layout."""
    machine = results.machine
    lines = [
        f"This machine: {machine.flops / 1e9:.0f} GFLOP/s (a large matrix product), {machine.bandwidth / 1e9:.1f} GB/s"
        " (a large copy); the floor is that of a direct convolution."
    ]
    best = best_layouts(results.rows)
    for direction in dict.fromkeys(direction for _, direction in best):
        cases = [forms for (_, d), forms in best.items() if d == direction and OURS in forms]
        if cases:
            lines += ["", *_summary_of(direction, cases, results)]
    return lines


def _summary_of(direction: str, cases: list[dict[str, Row]], results: Results) -> list[str]:
    lines = [f"{direction}: geometric means over {len(cases)} cases, how many times as long the better peer takes"]
    equal = [forms for forms in cases if not forms[OURS].is_ragged]
    groups = {"all": cases}
    for size in sorted({forms[OURS].set_size for forms in equal}):
        groups[f"K = {size:.0f}"] = [forms for forms in equal if forms[OURS].set_size == size]
    groups["ragged"] = [forms for forms in cases if forms[OURS].is_ragged]
    for kernel in sorted({forms[OURS].kernel for forms in cases}):
        groups[f"k = {kernel}"] = [forms for forms in cases if forms[OURS].kernel == kernel]
    for name, members in groups.items():
        means = [f"{mean:.2f}x {kind}" for kind in ("concat", "split") if (mean := against(kind, members))]
        if means:
            lines.append(f"  {name}: {', '.join(means)}")
    rivals = [(forms[OURS], peer) for forms in cases if (peer := fastest(forms, CONCAT + SPLIT))]
    if rivals:
        ours, peer = min(rivals, key=lambda pair: pair[1].p50 / pair[0].p50)
        lines.append(f"  least against the best peer: {peer.p50 / ours.p50:.2f}x {peer.form}, {ours.case}")
        behind = sum(peer.p50 / ours.p50 < BEHIND for ours, peer in rivals)
        lines.append(f"  cases with the best peer below {BEHIND}x: {behind} of {len(rivals)}")
    pairs = [(forms[OURS], peer) for forms in cases if (peer := fastest(forms, CONCAT))]
    if pairs:
        peak = geometric_mean([ours.peak_bytes / peer.peak_bytes for ours, peer in pairs])
        lines.append(f"  peak memory of a call: {peak:.2f} of concat's")
        saved = [ours.saved_bytes / peer.saved_bytes for ours, peer in pairs if peer.saved_bytes]
        if saved:
            lines.append(f"  kept for the backward beside the inputs: {max(saved):.2f} of concat's at most")
    shares = [results.of_floor(forms[OURS]) for forms in cases]
    lines.append(f"  of the floor: {geometric_mean(shares):.0%}")
    wide = [
        share
        for share, forms in zip(shares, cases, strict=True)
        if forms[OURS].kernel == 3 and forms[OURS].in_channels >= WIDE
    ]
    if wide:
        lines.append(f"  of the floor, k = 3 and C >= {WIDE}: {geometric_mean(wide):.0%}")
    return lines


def against(kind: str, cases: Iterable[Mapping[str, Row]]) -> float | None:
    """The geometric mean over cases of the better "concat" or "split" peer's time by ours; None without such a peer."""
    names = {"concat": CONCAT, "split": SPLIT}[kind]
    ratios = [peer.p50 / forms[OURS].p50 for forms in cases if (peer := fastest(forms, names))]
    return geometric_mean(ratios) if ratios else None
