"""Collects what an issue about a GPU needs into one archive: `python -m interconv_kernels.report`.

    python -m interconv_kernels.report                                            two to ten minutes
    python -m interconv_kernels.report --tune simpleunet-60K --size 160x192       also tunes a network

The archive holds plain text and JSON:

    environment.txt     versions of Python, torch, triton and this library; GPUs, their driver and compute capability
    selftest.txt, .json every check of `python -m interconv_kernels.selftest`
    tune.txt, .json     with --tune: the output of `python -m interconv_kernels.tune`, and what is in tuned.json
    benchmarks.txt, ... the smoke benchmark, if `benchmarks` can be imported (from a checkout of the repository)

Paths, the name of the user and the name of the machine are replaced by placeholders. Nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
import getpass
import json
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from . import tuned
from ._files import replacing
from ._version import __version__
from .selftest import describe


def environment(device: torch.device) -> str:
    """Versions, backends and GPUs, one a line."""
    lines = [
        f"interconv_kernels {__version__}",
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {platform.machine()}",
        *describe(device),
        f"CUDA {torch.version.cuda}, ROCm {torch.version.hip}, cuDNN or MIOpen {torch.backends.cudnn.version()}",
    ]
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        architecture = getattr(gpu, "gcnArchName", "")
        capability = f"{gpu.major}.{gpu.minor}"
        size = f"{gpu.total_memory / 2**30:.0f} GiB, {gpu.multi_processor_count} multiprocessors"
        lines.append(f"cuda:{i} {gpu.name}, {size}, compute capability {capability} {architecture}".rstrip())
    return "\n".join([*lines, *_driver()]) + "\n"


def _driver() -> list[str]:
    """The version of NVIDIA's driver, which torch does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [f"driver {version}" for version in sorted(set(done.stdout.split()))]


def anonymous(text: str) -> str:
    """The text without paths of this machine and without the names of its user and itself."""
    places = {Path.cwd(): "FOLDER", Path(sys.prefix): "PYTHON", Path(tempfile.gettempdir()): "TMP", Path.home(): "HOME"}
    for place in sorted(places, key=lambda path: -len(str(path))):
        if len(place.parts) > 1:  # not the root folder
            text = re.sub(rf"{re.escape(str(place))}(?![A-Za-z0-9])", places[place], text)
    for name, placeholder in ((_user(), "USER"), (platform.node(), "MACHINE")):
        if name:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", placeholder, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # such as in a container
        return ""


def _run(arguments: Sequence[str]) -> str:
    """The output of a Python module in a process of its own, which may crash; it is shown too."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            print(line, end="", file=sys.stderr, flush=True)
    return f"$ python -m {' '.join(arguments)}\n{''.join(lines)}exit status {process.returncode}\n"


def collect(folder: Path, options: argparse.Namespace) -> None:
    """Writes the files of the archive into a folder."""
    device = str(options.device)
    steps: list[tuple[str, Callable[[], str]]] = [
        ("environment", lambda: environment(options.device)),
        (
            "selftest",
            lambda: _run(["interconv_kernels.selftest", "--device", device, "--json", str(folder / "selftest.json")]),
        ),
    ]
    if options.tune:
        arguments = ["interconv_kernels.tune", options.tune, "--size", options.size, "--dtype", options.dtype]
        steps.append(("tune", lambda: _run([*arguments, "--device", device])))
    if find_spec("benchmarks") is not None and find_spec("benchmarks.suites") is not None:
        smoke = ["benchmarks", "run", "--suite", "smoke", "--repeats", "2", "--device", device]
        steps.append(("benchmarks", lambda: _run([*smoke, "--out", str(folder / "benchmarks")])))
    for number, (name, step) in enumerate(steps, start=1):
        print(f"{number}/{len(steps)}: {name}", file=sys.stderr, flush=True)
        (folder / f"{name}.txt").write_text(step(), encoding="utf-8")
    if options.tune and tuned.machine(options.device) is not None:
        (folder / "tune.json").write_text(json.dumps(tuned.table(), indent=1), encoding="utf-8")


def pack(folder: Path, archive: Path) -> list[str]:
    """Writes the text files of a folder into the archive, made anonymous; returns their names."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".txt", ".json", ".csv")]
    names = [str(path.relative_to(folder)) for path in files]
    with replacing(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as packed:
        for path, name in zip(files, names, strict=True):
            packed.writestr(name, anonymous(path.read_text(encoding="utf-8", errors="replace")))
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the archive; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m interconv_kernels.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add = parser.add_argument
    add("--out", type=Path, default=Path("interconv-report.zip"), metavar="FILE", help="default: %(default)s")
    add("--device", type=torch.device, default=torch.device(default), help=f"a torch device (default here: {default})")
    add("--tune", metavar="NETWORK", help="also run python -m interconv_kernels.tune NETWORK")
    add("--size", default="160x192", metavar="HxW", help="of the images for --tune; default: %(default)s")
    add("--dtype", default="bfloat16", help="for --tune; default: %(default)s")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        collect(Path(folder), options)
        names = pack(Path(folder), options.out)
    print(f"{options.out} holds {', '.join(names)}. It is text: look at it, then attach it to the issue.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
