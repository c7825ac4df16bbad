"""What counts as a regression, exit statuses, and revisions of a small repository."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from synthetic import results, row

from benchmarks import compare, networks
from benchmarks.results import write_results

QUIET = Console(quiet=True)
NAP = "    __import__('time').sleep(0.1)\n"


def regresses(a, b, bound=0.95):
    return compare.report_regressions(QUIET, a, b, bound) == 1


def test_a_measurement_regresses_below_the_bound():
    a = results(row(1.0), row(1.0, case="b"))
    assert not regresses(a, a)
    assert not regresses(a, results(row(1.0), row(1.04, case="b")))
    assert regresses(a, results(row(0.1), row(1.06, case="b")))  # a faster case does not make up for a slower one
    assert not regresses(a, results(row(1.0), row(1.06, case="b")), bound=0.9)
    assert not regresses(results(row(1.0)), results(row(2.0)), bound=0.5)  # the bound itself is allowed


def test_only_the_median_counts():
    assert not regresses(results(row(1.0)), results(row(1.0, p20=5.0, p80=5.0)))


@pytest.mark.parametrize(
    "other",
    [
        {"case": "b"},
        {"memory_format": "channels_last"},
        {"direction": "fwd"},
        {"implementation": "ours-split"},
        {"implementation": "compiled-ours"},
    ],
)
def test_a_measurement_is_compared_with_the_same_one(other):
    assert regresses(results(row(1.0), row(1.0, **other)), results(row(1.0), row(2.0, **other)))


@pytest.mark.parametrize("name", ["concat", "compiled-concat", "baseline"])
def test_baselines_never_regress(name):
    a, b = (results(row(1.0), row(seconds, implementation=name)) for seconds in (1.0, 9.0))
    assert not regresses(a, b)


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (results(row(1.0, case="another")), "no case of ours in common"),
        (results(row(1.0), threads=1), "threads of A is 2, of B 1"),
        (results(row(1.0), device="another processor"), "of B another processor"),
    ],
)
def test_results_that_cannot_be_compared(b, message):
    with pytest.raises(ValueError, match=message):
        regresses(results(row(1.0)), b)


def test_rounds_are_merged_by_the_median_of_each_quantile():
    rounds = [results(row(seconds, p20=seconds / 2)) for seconds in (3.0, 1.0, 2.0)]
    [merged] = compare.merge(rounds).measurements
    assert (merged.p20, merged.p50, merged.p80) == (1.0, 2.0, 2.0)


def test_files_and_exit_statuses(tmp_path, capsys):
    write_results(tmp_path / "a", results(row(1.0)))
    write_results(tmp_path / "b", results(row(2.0)))
    write_results(tmp_path / "c", results(row(2.0), dtype="float16"))
    a, b = str(tmp_path / "a"), str(tmp_path / "b" / "results.json")
    assert compare.main([a, a]) == 0
    assert compare.main([a, b]) == 1
    assert "1 of 1 measurements are below 0.95" in capsys.readouterr().out
    assert compare.main([a, b, "--bound", "0.4"]) == 0
    assert compare.main([a, str(tmp_path / "c")]) == 2
    assert "dtype of A is float32, of B float16" in capsys.readouterr().out
    assert compare.main([a, b, "--suite", "smoke"]) == 2
    assert "no options of `run`" in capsys.readouterr().out
    assert compare.main([a, "no-such-revision"]) == 2
    assert "no-such-revision" in capsys.readouterr().out


def test_results_of_networks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(networks, "peak_memory", lambda *_: 2**20)
    options = ["--networks", "simpleunet:4", "--size", "16", "16", "--lengths", "1", "2", "--repeats", "1"]
    before, after = tmp_path / "before", tmp_path / "after"
    assert networks.main([*options, "--placements", "replace", "--directions", "infer", "--out", str(before)]) == 0
    measured = compare.read_results(before)
    slower = [replace(each, p50=3 * each.p50) for each in measured.measurements]
    write_results(after, measured._replace(measurements=slower))
    assert compare.main([str(before), str(before)]) == 0
    assert compare.main([str(before), str(after)]) == 1
    out = capsys.readouterr().out
    assert "simpleunet:4 replace 1+2 16x16" in out
    assert "1 of 1 measurements are below 0.95" in out
    assert "baselines, 2 measurements: geometric mean of A / B 0.333" in out


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Two revisions of this library without its extension.

    "fast" has the reference implementation of older revisions, a single file, and "slow" sleeps in every call.
    """
    root = tmp_path / "repository"
    ignored = shutil.ignore_patterns("*.so", "*.json", "__pycache__")
    package = root / "interconv_kernels"
    shutil.copytree(compare.ROOT / "interconv_kernels", package, ignore=ignored)
    (root / "setup.py").write_text("")
    reference = package / "reference"
    shutil.copyfile(reference / "naive.py", package / "reference.py")
    reference.rename(tmp_path / "reference")
    (package / "_files.py").unlink()

    def git(*arguments):
        command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def commit(name):
        git("add", ".")
        git("commit", "-qm", name)
        git("tag", name)

    git("init", "-q")
    commit("fast")
    (package / "reference.py").unlink()
    (tmp_path / "reference").rename(reference)
    layer = package / "functional.py"
    text = layer.read_text()
    first_line = "    jagged_offsets = dense_shape = None\n"
    assert text.count(first_line) == 1
    layer.write_text(text.replace(first_line, NAP + first_line))
    commit("slow")
    monkeypatch.setattr(compare, "ROOT", root)
    return git


def test_each_revision_is_measured_with_its_own_code(repository, capsys):
    options = ["--rounds", "1", "--suite", "smoke", "--cases", "k1 1", "--repeats", "2"]
    assert compare.main(["fast", "slow", *options, "--memory-formats", "contiguous"]) == 1
    out = capsys.readouterr().out
    for side, revision in (("A", "fast"), ("B", "slow")):
        assert f"{side}: {repository('rev-parse', revision).strip()}," in out
    assert "1 of 1 measurements are below 0.95" in out
    assert repository("worktree", "list").count("\n") == 1  # the worktrees are removed


def test_a_revision_that_cannot_be_measured(repository, capsys):
    assert compare.main(["fast", "slow", "--suite", "smoke", "--cases", "no such case"]) == 2
    assert "no case of suite 'smoke' is selected" in capsys.readouterr().out
    assert repository("worktree", "list").count("\n") == 1


def test_what_a_revision_lacks_is_added_and_nothing_is_replaced(tmp_path):
    (tmp_path / "_files.py").write_text("the revision's own")
    compare._add_required(tmp_path)
    assert (tmp_path / "_files.py").read_text() == "the revision's own"
    package = Path(compare.ik.__file__).parent
    assert (tmp_path / "reference/concat.py").read_text() == (package / "reference/concat.py").read_text()
