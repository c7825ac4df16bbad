"""Geometric means, best layouts and pictures of made-up results."""

import pytest
from made_up import results, row
from rich.console import Console

from benchmarks import plots, report, table
from benchmarks.results import write_results

# Ours takes 1 s, or 2 s in the other layout, which does not count.
EXAMPLE = results(
    row(1.0, case="a", lengths=(1, 1)),
    row(2.0, case="a", lengths=(1, 1), layout="channels_last"),
    row(4.0, case="a", lengths=(1, 1), form="concat", peak_bytes=400, saved_bytes=200),
    row(2.0, case="a", lengths=(1, 1), form="concat", layout="channels_last", peak_bytes=200, saved_bytes=200),
    row(8.0, case="a", lengths=(1, 1), form="compiled-concat"),
    row(3.0, case="a", lengths=(1, 1), form="eager-split"),
    row(1.0, case="b", kernel=1, saved_bytes=50),
    row(8.0, case="b", kernel=1, form="compiled-concat", peak_bytes=1600, saved_bytes=100),
    row(0.75, case="b", kernel=1, form="eager-split", layout="channels_last"),
    row(1.0, case="c", lengths=(3, 1), channels=16),
    row(4.0, case="c", lengths=(3, 1), channels=16, form="padded-concat", peak_bytes=400),
    row(0.1, case="c", lengths=(3, 1), channels=16, form="loop-split"),
)


def test_geometric_mean():
    assert report.geometric_mean([2, 8]) == pytest.approx(4)
    assert report.geometric_mean([0.5, 2]) == pytest.approx(1)


def test_each_form_counts_in_its_better_layout():
    best = report.best_layouts(EXAMPLE.rows)
    assert best["a", "both"]["ours"].p50 == 1.0
    assert best["a", "both"]["concat"].layout == "channels_last"
    assert report.fastest(best["a", "both"], ["concat", "compiled-concat"]).p50 == 2.0
    assert report.fastest(best["a", "both"], ["loop-concat"]) is None


def test_the_summary():
    lines = [line.strip() for line in report.summary(EXAMPLE)]
    assert "both: geometric means over 3 cases, how many times as long the better peer takes" in lines
    assert "all: 4.00x concat, 0.61x split" in lines  # (2 * 8 * 4)^(1/3), (3 * 0.75 * 0.1)^(1/3)
    assert "K = 1: 2.00x concat, 3.00x split" in lines
    assert "K = 2: 8.00x concat, 0.75x split" in lines
    assert "ragged: 4.00x concat, 0.10x split" in lines
    assert "k = 1: 8.00x concat, 0.75x split" in lines
    assert "k = 3: 2.83x concat, 0.55x split" in lines
    assert "least against the best peer: 0.10x loop-split, c" in lines
    assert "cases with the best peer below 0.95x: 2 of 3" in lines
    assert "peak memory of a call: 0.20 of concat's" in lines  # (1/2 * 1/16 * 1/4)^(1/3)
    assert "kept for the backward beside the inputs: 0.50 of concat's at most" in lines
    assert "of the floor: 1%" in lines  # 1e9 FLOPs at 1e11 a second, in 1 s
    assert "of the floor, k = 3 and C >= 64: 1%" in lines


def test_directions_are_summed_up_apart():
    both = results(*EXAMPLE.rows, row(1.0, direction="fwd"), row(7.0, direction="fwd", form="concat"))
    lines = [line.strip() for line in report.summary(both)]
    assert "all: 4.00x concat, 0.61x split" in lines
    assert "all: 7.00x concat" in lines


def test_the_table_has_a_line_for_each_case():
    console = Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.table(EXAMPLE))
    text = console.export_text()
    [line] = [line for line in text.splitlines() if line.startswith("│a ")]
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells[:7] == ["a", "both", "1000.00", "1000.00-1000.00", "2000.00*", "3000.00", "2.00"]


def test_results_without_ours_have_a_table_and_no_means():
    peers_alone = results(row(1.0, form="concat"))
    Console(quiet=True).print(report.table(peers_alone))
    assert len(report.summary(peers_alone)) == 1


def test_pictures(tmp_path):
    assert plots.plot_all(tmp_path, EXAMPLE) == [
        "roofline.png",
        "speed-by-set-size.png",
        "speed-by-channels.png",
        "memory.png",
    ]
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    assert plots.plot_all(tmp_path, results(row(1.0))) == ["roofline.png"]


def test_a_table_for_a_document(tmp_path):
    document, folder = tmp_path / "figures.md", tmp_path / "paper-cpu"
    document.write_text("before\n<!-- paper-cpu -->\nold\n<!-- end of paper-cpu -->\nafter\n")
    write_results(folder, results(*EXAMPLE.rows, row(0.5, case="a", lengths=(1, 1), direction="fwd")))
    assert table.main([str(folder), "--write", str(document)]) == 0
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert lines[2].startswith("| case | forward + backward, ms | x concat | x split | of floor | forward, ms |")
    assert lines[4] == "| a | 1000.0 | 2.00 | 3.00 | 1% | 500.0 |  |  | 2% |"
    assert lines[5] == "| b | 1000.0 | 8.00 | 0.75 | 1% |  |  |  |  |"
    assert "  all: 4.00x concat, 0.61x split" in lines
    assert table.main([str(folder), "--write", str(document), "--section", "another"]) == 2
    assert table.main([str(tmp_path / "nothing")]) == 2
