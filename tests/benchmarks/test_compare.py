"""The rule of a regression, exit statuses, and revisions of a small repository."""

import shutil
import subprocess

import pytest
from made_up import results, row
from rich.console import Console

from benchmarks import compare
from benchmarks.results import write_results

QUIET = Console(quiet=True)


def judge(a, b, bound=0.95):
    return compare.judge(QUIET, a, b, bound)


def test_a_row_regresses_below_the_bound():
    a = results(row(1.0), row(1.0, case="b"))
    assert judge(a, a) == 0
    assert judge(a, results(row(1.0), row(1.04, case="b"))) == 0
    assert judge(a, results(row(0.1), row(1.06, case="b"))) == 1  # what is faster elsewhere makes up for nothing
    assert judge(a, results(row(1.0), row(1.06, case="b")), bound=0.9) == 0
    assert judge(results(row(1.0)), results(row(2.0)), bound=0.5) == 0  # the bound itself is allowed


def test_the_median_counts_alone():
    assert judge(results(row(1.0)), results(row(1.0, p20=5.0, p80=5.0))) == 0


def test_layouts_directions_and_forms_are_rows_of_their_own():
    for other in ({"layout": "channels_last"}, {"direction": "fwd"}, {"form": "ours-split"}):
        assert judge(results(row(1.0), row(1.0, **other)), results(row(1.0), row(2.0, **other))) == 1


def test_peers_are_a_control_and_never_regress():
    a, b = (results(row(1.0), row(seconds, form="concat")) for seconds in (1.0, 9.0))
    assert judge(a, b) == 0


@pytest.mark.parametrize(
    "b",
    [results(row(1.0, case="another")), results(row(1.0), threads=1), results(row(1.0), device="another processor")],
)
def test_what_cannot_be_compared(b):
    assert judge(results(row(1.0)), b) == 2


def test_rounds_are_merged_by_the_median_of_each_quantile():
    rounds = [results(row(seconds, p20=seconds / 2)) for seconds in (3.0, 1.0, 2.0)]
    [merged] = compare.merge(rounds).rows
    assert (merged.p20, merged.p50, merged.p80) == (1.0, 2.0, 2.0)


def test_files_and_exit_statuses(tmp_path, capsys):
    write_results(tmp_path / "a", results(row(1.0)))
    write_results(tmp_path / "b", results(row(2.0)))
    a, b = str(tmp_path / "a"), str(tmp_path / "b" / "results.json")
    assert compare.main([a, a]) == 0
    assert compare.main([a, b]) == 1
    assert "1 of 1 rows are below 0.95" in capsys.readouterr().out
    assert compare.main([a, b, "--bound", "0.4"]) == 0
    assert compare.main([a, b, "--suite", "smoke"]) == 2
    assert "no options of `run`" in capsys.readouterr().out
    assert compare.main([a, "no-such-revision"]) == 2
    assert "no-such-revision" in capsys.readouterr().out


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Two revisions of this library without its extension, tagged fast and slow: the second naps in every call."""
    root = tmp_path / "repository"
    ignored = shutil.ignore_patterns("*.so", "*.json", "__pycache__")
    shutil.copytree(compare.ROOT / "interconv_kernels", root / "interconv_kernels", ignore=ignored)
    (root / "setup.py").write_text("")

    def git(*arguments):
        command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "fast")
    git("tag", "fast")
    layer = root / "interconv_kernels/functional.py"
    text = layer.read_text()
    assert text.count("    jagged_offsets = dense_shape = None\n") == 1
    nap = "    __import__('time').sleep(0.1)\n"
    layer.write_text(
        text.replace("    jagged_offsets = dense_shape = None\n", nap + "    jagged_offsets = dense_shape = None\n")
    )
    git("commit", "-qam", "slow")
    git("tag", "slow")
    monkeypatch.setattr(compare, "ROOT", root)
    return git


def test_revisions_are_measured_each_on_its_own_code(repository, capsys):
    options = ["--rounds", "1", "--suite", "smoke", "--cases", "k1 1", "--repeats", "2", "--layouts", "NCHW"]
    assert compare.main(["slow", "fast", *options]) == 0
    out = capsys.readouterr().out
    for side, revision in (("A", "slow"), ("B", "fast")):
        assert f"{side}: {repository('rev-parse', revision).strip()}," in out
    assert compare.main(["fast", "slow", *options]) == 1
    assert repository("worktree", "list").count("\n") == 1  # nothing is left behind


def test_a_revision_that_cannot_be_measured(repository, capsys):
    assert compare.main(["fast", "slow", "--suite", "smoke", "--cases", "no such case"]) == 2
    assert "no case of suite 'smoke' is left" in capsys.readouterr().out
    assert repository("worktree", "list").count("\n") == 1
