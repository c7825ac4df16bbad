"""Malformed inputs of the commands: one line and an exit status, no traceback, no hang, nothing written outside --out.

`make test` runs the first cases, `make test-fuzz` all (MALFORMED_CASES).
"""

import os
import signal
import warnings

import pytest
from interconv_seg.cli import main
from malformed import copy_inputs, make_case, snapshot, write_inputs

CASES = int(os.environ.get("MALFORMED_CASES", "280"))
PARTS = 4  # tests, for several processes
SECONDS = 30


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


class TooLongError(BaseException):
    """Not an Exception: no handler for broken files may take it."""


def run(command, capsys):
    """(exit status, standard error) of a command that may not take long."""

    def stop(number, frame):
        raise TooLongError

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        code = main(command)
    except SystemExit as end:  # argparse
        code = end.code
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    return code, capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices")
@pytest.mark.parametrize("part", range(PARTS))
def test_malformed_inputs(inputs, tmp_path, capsys, part):
    folder, found, refused = tmp_path / "work", [], 0
    for number in range(part, CASES, PARTS):
        copy_inputs(inputs, folder)
        case = make_case(number, folder)
        before = snapshot(folder)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code, err = run(case.command, capsys)
        except TooLongError:
            found.append(f"{number} {case.name}: no end")
            continue
        except Exception as error:
            found.append(f"{number} {case.name}: {type(error).__name__}: {error}"[:300])
            continue
        if snapshot(folder) != before:
            found.append(f"{number} {case.name}: changed files outside --out")
        lines = [line for line in err.splitlines() if line.startswith("interconv") and "trained on" not in line]
        if code not in (0, 1, 2) or "Traceback" in err:
            found.append(f"{number} {case.name}: exit status {code}, {err[-300:]}")
        elif code and len(lines) != 1:
            found.append(f"{number} {case.name}: {len(lines)} lines: {err[-300:]}")
        elif not code and case.wrong:
            found.append(f"{number} {case.name}: accepted: {' '.join(case.command)}")
        refused += bool(code)
    assert not found, "\n".join(found)
    assert refused > CASES / PARTS * 0.6
