"""What the repository promises as a package."""

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


def run(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)


def test_the_kernel_library_needs_torch_and_numpy_alone():
    blocked = {"interconv_seg", "monai", "nilearn", "scipy", "matplotlib", "tqdm", "triton", "nibabel"}
    code = (
        BLOCK.format(blocked=blocked)
        + "import interconv_kernels as ik, torch\nprint(ik.InterConv2d(2)(torch.ones(2, 2, 3, 3), 2).shape)"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert "torch.Size([2, 2, 3, 3])" in result.stdout


def test_the_readmes_example_runs():
    text = (ROOT / "README.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    result = run(example)
    assert result.returncode == 0, result.stderr


def test_the_name_of_the_distribution():
    from importlib.metadata import metadata, version

    import interconv_kernels

    assert version("interconv-kernels") == interconv_kernels.__version__
    assert metadata("interconv-kernels")["License-Expression"] == "Apache-2.0"


def test_dir_shows_the_public_names_and_nothing_else():
    import interconv_kernels as ik

    assert set(dir(ik)) == set(ik.__all__)
    assert all(hasattr(ik, name) for name in ik.__all__)
    assert set(dir(ik.reference)) == set(ik.reference.__all__)


def test_every_package_is_in_the_wheel():
    listed = re.search(r"^packages = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    found = {
        str(file.parent.relative_to(root)).replace("/", ".")
        for root, package in ((ROOT, "interconv_kernels"), (ROOT / "python", "interconv_seg"))
        for file in (root / package).rglob("*.py")
    }
    assert set(json.loads(f"[{listed}]")) == found


def test_the_sdist_is_complete(tmp_path):
    """All files of the repository but the settings of its host and of editors."""
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    assert {name for name in tracked if name and not name.startswith(".")} <= packed
    assert not [name for name in packed if name.endswith((".so", ".pyc")) or "__pycache__" in name]
