"""Geometric means, faster memory formats, tables and plots of synthetic results."""

import pytest
from rich.console import Console
from synthetic import results, row

from benchmarks import plots, report, table
from benchmarks.results import write_results

# Ours takes 1 s, or 2 s in the other memory format, which does not count.
EXAMPLE = results(
    row(1.0, case="a", lengths=(1, 1)),
    row(2.0, case="a", lengths=(1, 1), memory_format="channels_last"),
    row(4.0, case="a", lengths=(1, 1), implementation="concat", peak_bytes=400, saved_bytes=200),
    row(
        2.0,
        case="a",
        lengths=(1, 1),
        implementation="concat",
        memory_format="channels_last",
        peak_bytes=200,
        saved_bytes=200,
    ),
    row(8.0, case="a", lengths=(1, 1), implementation="compiled-concat"),
    row(3.0, case="a", lengths=(1, 1), implementation="eager-split"),
    row(1.0, case="b", kernel=1, saved_bytes=50),
    row(8.0, case="b", kernel=1, implementation="compiled-concat", peak_bytes=1600, saved_bytes=100),
    row(0.75, case="b", kernel=1, implementation="eager-split", memory_format="channels_last"),
    row(1.0, case="c", lengths=(3, 1), channels=16),
    row(4.0, case="c", lengths=(3, 1), channels=16, implementation="padded-concat", peak_bytes=400),
    row(0.1, case="c", lengths=(3, 1), channels=16, implementation="loop-split"),
)


def test_geometric_mean():
    assert report.geometric_mean([2, 8]) == pytest.approx(4)
    assert report.geometric_mean([0.5, 2]) == pytest.approx(1)


def test_each_implementation_counts_in_its_faster_memory_format():
    by_name = report.faster_memory_formats(EXAMPLE.measurements)["a", "both"]
    assert by_name["ours"].p50 == 1.0
    assert by_name["concat"].memory_format == "channels_last"
    assert report.fastest(by_name, ["concat", "compiled-concat"]).p50 == 2.0
    assert report.fastest(by_name, ["loop-concat"]) is None


def test_the_summary():
    lines = [line.strip() for line in report.summary(EXAMPLE)]
    assert "both: geometric mean of the speedup over the faster baseline, 3 cases" in lines
    assert "all: 4.00 over concat, 0.61 over split" in lines  # (2 * 8 * 4)^(1/3), (3 * 0.75 * 0.1)^(1/3)
    assert "K = 1: 2.00 over concat, 3.00 over split" in lines
    assert "K = 2: 8.00 over concat, 0.75 over split" in lines
    assert "ragged: 4.00 over concat, 0.10 over split" in lines
    assert "k = 1: 8.00 over concat, 0.75 over split" in lines
    assert "k = 3: 2.83 over concat, 0.55 over split" in lines
    assert "smallest speedup over the fastest baseline: 0.10 (loop-split, c)" in lines
    assert "cases with a speedup below 0.95 over the fastest baseline: 2 of 3" in lines
    assert "peak memory, divided by concat's: 0.20" in lines  # (1/2 * 1/16 * 1/4)^(1/3)
    assert "memory saved for the backward, without the inputs, divided by concat's: at most 0.50" in lines
    assert "fraction of the roofline: 1%" in lines  # 1e9 FLOPs at 1e11 per second, in 1 s
    assert "fraction of the roofline, k = 3 and C >= 64: 1%" in lines


def test_each_direction_has_its_own_summary():
    both = results(*EXAMPLE.measurements, row(1.0, direction="fwd"), row(7.0, direction="fwd", implementation="concat"))
    lines = [line.strip() for line in report.summary(both)]
    assert "all: 4.00 over concat, 0.61 over split" in lines
    assert "all: 7.00 over concat" in lines


def test_the_table_has_a_line_for_each_case_and_direction():
    console = Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.table(EXAMPLE))
    text = console.export_text()
    [line] = [line for line in text.splitlines() if line.startswith("│a ")]
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells[:7] == ["a", "both", "1000.00", "1000.00-1000.00", "2000.00*", "3000.00", "2.00"]


def test_results_without_ours_have_a_table_and_no_means():
    baselines = results(row(1.0, implementation="concat"))
    Console(quiet=True).print(report.table(baselines))
    assert len(report.summary(baselines)) == 1


def test_plots(tmp_path):
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
    write_results(folder, results(*EXAMPLE.measurements, row(0.5, case="a", lengths=(1, 1), direction="fwd")))
    assert table.main([str(folder), "--write", str(document)]) == 0
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert lines[2].startswith(
        "| case | forward + backward, ms | speedup over concat | speedup over split | of roofline | forward, ms |"
    )
    assert lines[4] == "| a | 1000.0 | 2.00 | 3.00 | 1% | 500.0 |  |  | 2% |"
    assert lines[5] == "| b | 1000.0 | 8.00 | 0.75 | 1% |  |  |  |  |"
    assert "  all: 4.00 over concat, 0.61 over split" in lines
    assert table.main([str(folder), "--write", str(document), "--section", "another"]) == 2
    assert table.main([str(tmp_path / "nothing")]) == 2


def test_a_table_of_other_results_is_refused(tmp_path, capsys):
    write_results(tmp_path, EXAMPLE._replace(machine=None))
    assert table.main([str(tmp_path)]) == 2
    assert "no roofline: expected results of `run`" in capsys.readouterr().err
