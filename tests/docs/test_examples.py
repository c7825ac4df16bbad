"""Every example of the README and of the pages, in the order of the page, in a folder with a small data set."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import LANGUAGES, PAGES, ROOT, SHOWN, Block, blocks, examples
from PIL import Image

NAMES = {str(page.relative_to(ROOT)): page for page in PAGES}
TINY = "--network simpleunet --features 2 --size 16x16 --steps 2 --interval 1 --sets-per-batch 2"
RUNS = (
    f"interconv train --mode automatic --data scans {TINY} --seeds 0 1 --out runs/interconv",
    f"interconv train --mode automatic --data scans {TINY} --interconv none --out runs/baseline",
    f"interconv train --mode interactive --data scans {TINY} --out runs/clicks",
)
WITH_RUNS = (
    "docs/segmentation/evaluate.md",
    "docs/segmentation/segment.md",
    "docs/segmentation/prompts.md",
    "docs/segmentation/page.md",
)


def run_bash(code: str, folder: Path) -> None:
    """Run commands with the programs of this Python's environment first, as in an activated one."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # The benchmarks are no installed package: their commands are for the root of the repository.
    modules = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": modules}
    command = ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """scans/: noisy discs of ten subjects, 2 to 4 each, with masks, and prompts for label 1 of one, recorded/1.
    new_patient/: three images. prompts/: for one."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    lines = ["set,image,mask"]
    for name in ("scans", "new_patient", "prompts", "recorded/1"):
        (folder / name).mkdir(parents=True)
    for subject in range(10):
        distance = np.hypot(rows - 28 - subject % 3, columns - 32)
        mask = np.select([distance < 10, distance < 20], [1, 2], 0).astype(np.uint8)
        Image.fromarray(mask).save(folder / f"scans/mask{subject}.png")
        for scan in range(2 + subject % 3):
            noisy = (60 * mask + random.normal(60, 20, mask.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"scans/p{subject}_{scan}.png")
            lines.append(f"p{subject},p{subject}_{scan}.png,mask{subject}.png")
            if subject == 0 or (subject == 1 and scan == 0):
                Image.fromarray(noisy).save(folder / f"new_patient/x{subject}{scan}.png")
    (folder / "scans/sets.csv").write_text("\n".join(lines) + "\n")
    drawn = np.zeros((64, 64), np.uint8)
    drawn[28:32, 30], drawn[5, 5:20] = 1, 2
    for file in ("prompts/x00.png", "recorded/1/p0_0.png"):
        Image.fromarray(drawn).save(folder / file)
    return folder


@pytest.fixture(scope="session")
def runs(data, tmp_path_factory):
    """The data and some trained runs."""
    folder = tmp_path_factory.mktemp("runs") / "work"
    shutil.copytree(data, folder)
    for command in RUNS:
        run_bash(command, folder)
    return folder


@pytest.fixture(autouse=True)
def as_a_user():
    """The settings of a fresh process: the tests' own would be seen by compiled code."""
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True)


def marked(name: str):
    """Those of docs/integrations need the other environment."""
    return pytest.param(name, marks=[pytest.mark.integration] if name.startswith("docs/integrations/") else [])


@pytest.mark.parametrize("name", [marked(name) for name, page in NAMES.items() if examples(page)])
def test_the_examples_of(name, request, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    shutil.copytree(request.getfixturevalue("runs" if name in WITH_RUNS else "data"), folder)
    monkeypatch.chdir(folder)
    namespace = {"__name__": "__main__"}
    for block in examples(NAMES[name]):
        if block.language == "bash":
            run_bash(block.code, folder)
        else:
            padded = "\n" * (block.line - 1) + block.code  # so that a traceback shows the page's line
            exec(compile(padded, str(NAMES[name]), "exec"), namespace)


@pytest.mark.parametrize("name", NAMES)
def test_each_block_says_what_it_is(name):
    text = NAMES[name].read_text()
    assert len(blocks(NAMES[name])) == text.count("\n```") / 2
    for block in blocks(NAMES[name]):
        assert block.language in LANGUAGES | SHOWN, f"{name}:{block.line}: {block.language!r}"


def test_wrong_comments_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- run with: --steps 9 => --steps 1 -->\n```bash\ntrain --steps 8\n```\n")
    with pytest.raises(ValueError, match=r"page.md:3: '--steps 9 => --steps 1'"):
        blocks(page)
    page.write_text("<!-- run with: 8 => 1; train => echo -->\n```bash\ntrain --steps 8\n```\n")
    assert blocks(page) == [Block("bash", "echo --steps 1\n", 3, "run with", "")]
    page.write_text("<!-- not run: no GPU -->\n\n```bash\ntrain\n```\n")
    with pytest.raises(ValueError, match="not right before a block"):
        blocks(page)
