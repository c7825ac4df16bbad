"""Files are complete, and are read back unchanged."""

import csv
import dataclasses
import subprocess

import pytest
from synthetic import ENVIRONMENT, results, row

from benchmarks.results import Results, commit_of, read_results, write_csv, write_results


def test_results_are_read_back_unchanged(tmp_path):
    written = results(row(0.001, p80=0.1), row(1 / 3, implementation="concat", lengths=(3, 1)))
    write_results(tmp_path, written)
    assert read_results(tmp_path) == written
    assert read_results(tmp_path / "results.json") == written


def test_results_without_a_machine(tmp_path):
    written = Results(ENVIRONMENT, [row(0.001)])
    write_results(tmp_path, written)
    assert read_results(tmp_path) == written
    with pytest.raises(ValueError, match="no roofline"):
        written.roofline_fraction(row(0.001))


def test_each_row_of_the_csv_has_its_environment_and_rates(tmp_path):
    written = results(row(0.02))
    write_results(tmp_path, written, written.layer_rates)
    [line] = csv.DictReader((tmp_path / "results.csv").open())
    assert {key: line[key] for key in ("device", "torch", "commit")} == {
        key: ENVIRONMENT[key] for key in ("device", "torch", "commit")
    }
    assert float(line["gflop_per_s"]) == pytest.approx(50)  # 1e9 FLOPs in 0.02 s
    assert float(line["gb_per_s"]) == pytest.approx(0.05)
    assert float(line["roofline_fraction"]) == pytest.approx(0.5)  # 1e9 FLOPs at 1e11 per second
    fields = {field.name for field in dataclasses.fields(row(1))} - {"details"}
    assert fields | row(1).details.keys() <= line.keys()


def test_a_csv_file_is_written_completely_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.csv"
    inconsistent = [{"a": 1}, {"another": 1}]
    with pytest.raises(ValueError, match="another"):
        write_csv(path, inconsistent)
    assert list(path.parent.iterdir()) == []
    path.write_text("old")
    with pytest.raises(ValueError, match="another"):
        write_csv(path, inconsistent)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"environment": {}, "machine": {}, "measurements": [{"case": 1}]}']
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="has no results"):
        read_results(path)


def test_the_commit_shows_whether_tracked_files_were_changed(tmp_path):
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
