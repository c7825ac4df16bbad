"""What is written is whole, and read back the same."""

import csv
import dataclasses
import subprocess

import pytest
from made_up import ENVIRONMENT, results, row

from benchmarks.results import commit_of, read_results, replacing, write_csv, write_results


def test_results_are_read_back_the_same(tmp_path):
    written = results(row(0.001, p80=0.1), row(1 / 3, form="concat", lengths=(3, 1)))
    write_results(tmp_path, written)
    assert read_results(tmp_path) == written
    assert read_results(tmp_path / "results.json") == written


def test_each_row_of_the_csv_stands_for_itself(tmp_path):
    write_results(tmp_path, results(row(0.02)))
    [line] = csv.DictReader((tmp_path / "results.csv").open())
    assert {key: line[key] for key in ("device", "torch", "commit")} == {
        key: ENVIRONMENT[key] for key in ("device", "torch", "commit")
    }
    assert float(line["gflop_per_s"]) == pytest.approx(50)  # 1e9 FLOPs in 0.02 s
    assert float(line["gb_per_s"]) == pytest.approx(0.05)
    assert float(line["of_floor"]) == pytest.approx(0.5)  # 1e9 FLOPs at 1e11 a second
    assert {field.name for field in dataclasses.fields(row(1))} <= line.keys()


def test_a_file_is_whole_or_not_there(tmp_path):
    def broken():
        yield {"a": 1}
        yield {"another": 1}

    with pytest.raises(ValueError, match="another"):
        write_csv(tmp_path / "new" / "a.csv", list(broken()))
    assert list((tmp_path / "new").iterdir()) == []

    path = tmp_path / "old"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:  # noqa: PT012
        partial.write_text("half of")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"environment": {}, "machine": {}, "rows": [{"case": 1}]}'])
def test_what_holds_no_results_is_refused(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="holds no results"):
        read_results(path)


def test_the_commit_says_whether_files_differ_from_it(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert commit_of(tmp_path) == "unknown"
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "1")
    assert commit_of(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("1")
    assert commit_of(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert commit_of(tmp_path) == git("rev-parse", "HEAD") + "+dirty"
