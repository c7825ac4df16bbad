"""The memory of a training of `interconv_seg` at its peak, against that of its images and masks as tensors."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

BYTES_PER_PIXEL = 6  # an image in float32 and its mask in int16
IMAGES_PER_SUBJECT = 5


class Peak(NamedTuple):
    """Of one training with a single step.

    Attributes:
        tensors: bytes of the images and masks that it loads.
        process: bytes of the process at its peak, with what is mapped from files and can be dropped.
        bound: bytes that cannot be dropped, when the training begins.
        seconds: that it took.
    """

    tensors: int
    process: int
    bound: int
    seconds: float


def write_images(folder: Path, images: int, size: int) -> None:
    """Writes a plain folder of square images and masks (PNG), five of a subject."""
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    lines = ["set,image,mask"]
    for i in range(images):
        mask = (np.hypot(rows - size / 2, columns - size / 2) < size * random.uniform(0.1, 0.4)).astype(np.uint8)
        image = (100 * mask + random.integers(0, 50, mask.shape)).astype(np.uint8)
        Image.fromarray(image).save(folder / f"image{i}.png")
        Image.fromarray(mask).save(folder / f"mask{i}.png")
        lines.append(f"subject{i // IMAGES_PER_SUBJECT},image{i}.png,mask{i}.png")
    (folder / "sets.csv").write_text("\n".join(lines) + "\n")


def peak_of_training(folder: Path, out: Path, *options: str) -> Peak:
    """Trains one step on all images of a folder of `write_images`, in a process of its own.

    Args:
        folder: the images; a fifth of the subjects is for testing, and not loaded.
        out: of the run.
        options: further ones of `interconv train`.
    """
    command = [sys.executable, "-m", "benchmarks.loading", "--train", str(folder), str(out), *options]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    tensors, process, bound = (int(word) for word in done.stdout.split()[-3:])
    return Peak(tensors, process, bound, time.perf_counter() - start)


def _train(folder: str, out: str, *options: str) -> int:
    """Trains, and prints the bytes of the images and of this process at its peak."""
    from interconv_seg import training
    from interconv_seg.cli import main as interconv
    from interconv_seg.data import TensorStore

    stored = []
    keep = TensorStore.keep

    def counted(self, tensor):  # type: ignore[no-untyped-def]
        stored.append(tensor.nbytes)
        return keep(self, tensor)

    bound = []
    train = training.train

    def measured(*args, **options):  # type: ignore[no-untyped-def]
        bound.append(_status("RssAnon"))
        return train(*args, **options)

    TensorStore.keep, training.train = counted, measured  # type: ignore[method-assign]
    network = ["--network", "simpleunet", "--features", "2", "--size", "stored", "--steps", "1", "--device", "cpu"]
    batch = ["--mode", "automatic", "--sets-per-batch", "1", "--set-sizes", "1-2"]
    code = interconv(["train", *batch, *network, "--data", folder, "--out", out, *options])
    print(sum(stored), _status("VmHWM"), bound[0])
    return code


def _status(name: str) -> int:
    """Bytes that Linux tells of this process; the peak of getrusage would be that of the parent if that is larger."""
    (kilobytes,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(kilobytes)


def main(argv: list[str]) -> int:
    """Prints the peaks with all in memory, and with a bound."""
    if argv[:1] == ["--train"]:
        return _train(*argv[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks loading", description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--size", type=int, default=256, help="pixels of a side (default: %(default)s)")
    parser.add_argument("--memory", metavar="GB", default="0.5", help="the bound (default: %(default)s)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "few", 3 * IMAGES_PER_SUBJECT, args.size)
        write_images(folder / "many", args.images, args.size)
        few = peak_of_training(folder / "few", folder / "run_few")
        print(f"{args.images} images of {args.size}x{args.size}; without images a training takes {_mb(few.process)}")
        for title, options in (("in memory", []), (f"--memory {args.memory}", ["--memory", args.memory])):
            many = peak_of_training(folder / "many", folder / title.replace(" ", "_"), *options)
            tensors = many.tensors - few.tensors
            ratio, bound = (many.process - few.process) / tensors, (many.bound - few.bound) / tensors
            print(
                f"{title}: {_mb(many.tensors)} of tensors, {_mb(many.process)} at the peak; beyond an empty training"
                f" {ratio:.2f} times the tensors, of which {bound:.2f} cannot be dropped; {many.seconds:.0f} s",
                flush=True,
            )
    return 0


def _mb(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
