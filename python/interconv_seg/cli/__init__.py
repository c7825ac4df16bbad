"""The command `interconv`. Each subcommand is a module with `add(subparsers)` and `run(args)`, its exit code.

Exit codes: 0 done; 1 a check failed or a training diverged; 2 what the user asked for cannot be done; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import doctor, evaluate, models, prompts, segment, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. What a user can mend is said in one line, without a traceback."""
    parser = argparse.ArgumentParser(
        prog="interconv", description="Segment sets of related biomedical images together (InterConv)."
    )
    subparsers = parser.add_subparsers(metavar="command", required=True)
    for command in (train, evaluate, segment, prompts, models, doctor):
        command.add(subparsers)
    args = parser.parse_args(arguments)
    try:
        code: int = args.run(args)
        return code
    except BrokenPipeError:  # `interconv models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at its end
        return 0
    except KeyboardInterrupt as stop:
        return _say(str(stop) or "stopped", 130)
    except FloatingPointError as error:
        return _say(str(error), 1)
    except ModuleNotFoundError as error:
        return _say(f"{error.name} is not installed: pip install 'interconv-kernels[seg]'", 2)
    except (ValueError, TypeError, OSError) as error:
        return _say(str(error), 2)


def _say(text: str, code: int) -> int:
    print(f"interconv: {' '.join(text.split())}", file=sys.stderr)
    return code
