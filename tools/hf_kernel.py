"""Lays the built package out as a kernel repository of Hugging Face: `make hf-kernel`.

    out/hf-kernel/README.md
    out/hf-kernel/build/torch-stable-abi213-cpu-x86_64-linux/   the package with the extension, for torch 2.13 and newer
    out/hf-kernel/build/torch-stable-abi213-cu130-x86_64-linux/ the same, if it was built with CUDA 13.0
    out/hf-kernel/build/torch-{cpu,cuda,rocm}/                  the package without it, for everything else

`kernels.get_local_kernel(Path("out/hf-kernel"))` loads the variant that fits.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "interconv_kernels"
STABLE_ABI = "torch-stable-abi213"  # TORCH_TARGET_VERSION in setup.py
VERSION = 1  # of the kernel repository: raised when a public name changes its meaning
CARD = """---
library_name: kernels
license: apache-2.0
tags:
- kernels
---

InterConv over ragged sets of images without padding: the layer of
*InterConv: Set Interaction for Improved Biomedical Image Segmentation*.

```python
import torch
from kernels import get_kernel

ik = get_kernel("OWNER/interconv-kernels", version={version})
layer = ik.InterConv2d(16, 32)
y = layer(torch.randn(12, 16, 64, 64), ik.Sets.from_lengths([3, 1, 8]))
```
"""


def write_variant(build: Path, name: str, backend: str, archs: list[str] | None, extension: bool) -> None:
    """Writes one build variant: the package's files and metadata.json."""
    left_out = shutil.ignore_patterns("__pycache__", *([] if extension else ["_cpp*"]))
    shutil.copytree(PACKAGE, build / name, ignore=left_out)
    metadata = {
        "id": "interconv_kernels_" + re.sub(r"\W", "_", f"{name}_{VERSION}"),
        "name": "interconv-kernels",
        "version": VERSION,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": backend, **({"archs": archs} if archs else {})},
    }
    (build / name / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def cuda_version() -> str:
    """The version of nvcc as in the names of variants, for example "cu130"."""
    shown = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    major, minor = re.findall(r"release (\d+)\.(\d+)", shown)[0]
    return f"cu{major}{minor}"


def main() -> None:
    """Writes the repository for the extension that lies in the source tree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write; replaced if it exists")
    out = parser.parse_args().out
    if not (PACKAGE / "_cpp_build.json").exists():
        parser.error("the extension is not built: run `pip install -e .`")
    report = json.loads((PACKAGE / "_cpp_build.json").read_text())
    shutil.rmtree(out, ignore_errors=True)
    build = out / "build"
    system = f"{platform.machine()}-{platform.system().lower()}"
    write_variant(build, f"{STABLE_ABI}-cpu-{system}", "cpu", None, True)
    if report["architectures"]:
        write_variant(build, f"{STABLE_ABI}-{cuda_version()}-{system}", "cuda", report["architectures"], True)
    for backend in ("cpu", "cuda", "rocm"):
        write_variant(build, f"torch-{backend}", backend, None, False)
    (out / "README.md").write_text(CARD.replace("{version}", str(VERSION)))
    shutil.copy(ROOT / "LICENSE", out / "LICENSE")
    print(f"{out}: {', '.join(sorted(folder.name for folder in build.iterdir()))}")


if __name__ == "__main__":
    main()
