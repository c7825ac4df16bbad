"""`python -m interconv_kernels.report`: what the archive holds, and what it must not hold."""

import getpass
import platform
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from interconv_kernels import report


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Stands in for the modules that the report runs, which take minutes, and records their command lines."""
    ran = []

    def run(arguments):
        ran.append(arguments)
        if "--json" in arguments:
            Path(arguments[-1]).write_text(f'{{"environment": "{Path.home()}/x"}}')
        if arguments[0] == "benchmarks":
            folder = Path(arguments[-1])
            folder.mkdir()
            (folder / "results.json").write_text("{}")
            (folder / "plot.png").write_bytes(b"\x89PNG")
        return f"ran {arguments[0]} in {Path.cwd()} for {getpass.getuser()} on {platform.node()}\n"

    monkeypatch.setattr(report, "_run", run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return ran


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_the_archive(commands, tmp_path, capsys):
    out = tmp_path / "r.zip"
    assert report.main(["--out", str(out), "--device", "cpu", "--tune", "simpleunet-60K", "--size", "32x32"]) == 0
    files = contents(out)
    names = [
        "benchmarks.txt",
        "benchmarks/results.json",
        "environment.txt",
        "selftest.json",
        "selftest.txt",
        "tune.txt",
    ]
    assert sorted(files) == names
    assert [command[0] for command in commands] == [
        "interconv_kernels.selftest",
        "interconv_kernels.tune",
        "benchmarks",
    ]
    assert commands[1][1:4] == ["simpleunet-60K", "--size", "32x32"]
    assert "backend torch 2." in files["environment.txt"]
    assert f"Python {platform.python_version()}" in files["environment.txt"]
    assert all(name in capsys.readouterr().out for name in names[:1])


def test_measurements_are_in_the_archive(commands, tmp_path, monkeypatch):
    monkeypatch.setattr(report.tuned, "machine", lambda device: "some GPU")
    monkeypatch.setattr(report.tuned, "table", lambda: {"some GPU": {}})
    report.main(["--out", str(tmp_path / "r.zip"), "--device", "cpu", "--tune", "simpleunet-60K"])
    assert contents(tmp_path / "r.zip")["tune.json"] == '{\n "some GPU": {}\n}'
    report.main(["--out", str(tmp_path / "r.zip"), "--device", "cpu"])
    assert "tune.json" not in contents(tmp_path / "r.zip")


def test_the_archive_names_nobody(commands, tmp_path, monkeypatch):
    monkeypatch.setattr(report.getpass, "getuser", lambda: "jane")
    monkeypatch.setattr(report.platform, "node", lambda: "janes-box")
    monkeypatch.setattr(report.Path, "home", lambda: Path("/home/jane"))
    report.main(["--out", str(tmp_path / "r.zip"), "--device", "cpu"])
    files = contents(tmp_path / "r.zip")
    assert "for USER on MACHINE" in files["selftest.txt"]
    assert files["selftest.json"] == '{"environment": "HOME/x"}'
    for text in files.values():
        for secret in ("jane", str(Path.cwd()), sys.prefix, tempfile.gettempdir()):
            assert secret not in text


def test_names_are_not_cut_out_of_words(monkeypatch):
    monkeypatch.setattr(report.getpass, "getuser", lambda: "tri")
    assert report.anonymous("tri runs triton in /x/tri/y") == "USER runs triton in /x/USER/y"


def test_a_module_that_fails_is_reported(capsys):
    text = report._run(["interconv_kernels.selftest", "--device", "no-such-device"])
    assert text.startswith("$ python -m interconv_kernels.selftest --device no-such-device\n")
    assert text.endswith("exit status 1\n")
    assert "no-such-device" in capsys.readouterr().err
