"""The table tells what the tests gave, whatever that was."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.drop_in("lib", "works with {name} of width {width}")
@pytest.mark.parametrize(("name", "width"), [("a", 1), ("b", 2)])
def test_each(name, width): pass

@pytest.mark.drop_in("lib", "two checks")
@pytest.mark.parametrize("good", [True, False])
def test_both(good): assert good

@pytest.mark.drop_in("Another", "is refused", limitation="pass x")
def test_refused(): pass

@pytest.mark.drop_in("lib", "skipped")
def test_skipped(): pytest.skip("no")

@pytest.fixture
def broken(): raise RuntimeError

@pytest.mark.drop_in("lib", "fails before it starts", limitation="none")
def test_setup(broken): pass

def test_not_in_the_table(): assert False
"""


@pytest.mark.parametrize("processes", ["0", "2"])
def test_the_table_cannot_lie(tmp_path, processes):
    (tmp_path / "test_them.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  drop_in: a row\n")
    command = [sys.executable, "-m", "pytest", "-p", "drop_in", "-n", processes, "--drop-in-table", "table.md"]
    environment = {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    text = (tmp_path / "table.md").read_text()
    assert [line for line in text.splitlines() if "test_them" in line] == [
        "| Another | is refused | limitation: pass x | 1 | `test_them.py` |",
        "| lib | fails before it starts | FAIL | 1 | `test_them.py` |",
        "| lib | skipped | NOT RUN | 1 | `test_them.py` |",
        "| lib | two checks | FAIL | 2 | `test_them.py` |",
        "| lib | works with a of width 1 | PASS | 1 | `test_them.py` |",
        "| lib | works with b of width 2 | PASS | 1 | `test_them.py` |",
    ]
    assert "6 rows: 2 PASS, 2 FAIL, 1 NOT RUN, 1 documented limitations." in text
