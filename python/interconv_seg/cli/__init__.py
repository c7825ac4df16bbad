"""The command `interconv`.

Each subcommand is a module with `add(subparsers)` and `run(args)`, which returns its exit code.

Exit codes: 0 success; 1 a check failed, a training diverged or memory ran out; 2 the request cannot be fulfilled; 130
Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from interconv_kernels._version import __version__

from . import dicom, doctor, evaluate, init, models, nnunet, page, prompts, report, segment, train

# Of a module; those that are not listed are in "seg".
EXTRAS = {
    **dict.fromkeys(("huggingface_hub", "safetensors"), "hub"),
    **dict.fromkeys(("multipart", "python_multipart", "starlette", "uvicorn", "websockets"), "page"),
    "nnunetv2": "nnunet",
    "pydicom": "dicom",
}
# What torch says, on the CPU and on GPUs.
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Errors that a user can fix are printed as one line, without a traceback.

    Args:
        arguments: of the command line; None: those of this process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="interconv", description="Segment sets of related biomedical images together (InterConv)."
    )
    parser.add_argument("--version", action="version", version=f"interconv {__version__}")
    subparsers = parser.add_subparsers(metavar="command", required=True)
    for command in (init, train, evaluate, segment, page, report, prompts, dicom, models, nnunet, doctor):
        command.add(subparsers)
    args = parser.parse_args(arguments)
    try:
        code: int = args.run(args)
        return code
    except BrokenPipeError:  # `interconv models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports it again at exit
        return 0
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "stopped", 130)
    except FloatingPointError as error:
        return _fail(str(error), 1)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0], "seg")
        return _fail(f"{error.name} is not installed: pip install 'interconv-kernels[{extra}]'", 2)
    except (ValueError, TypeError, OSError) as error:
        return _fail(str(error), 2)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)):
            raise
        return _fail(f"out of memory ({str(error).splitlines()[0] if str(error) else 'MemoryError'})", 1)


def _fail(message: str, code: int) -> int:
    print(f"interconv: {' '.join(message.split())}", file=sys.stderr)
    return code
