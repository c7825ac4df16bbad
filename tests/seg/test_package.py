"""The package: its public names, and imports that only go downwards."""

import ast
from pathlib import Path

import interconv_seg
import pytest

FOLDER = Path(interconv_seg.__file__).parent
# Each module may import only modules of the lines before it.
LAYERS = (
    {
        "seeding",
        "networks",
        "anatomy",
        "training_log",
        "estimates",
        "checkpoints",
        "folder_lock",
        "nnunet_v2",
        "thinning",
    },
    {"data", "hub", "monai", "example"},
    {"scribbles"},
    {"prompts"},
    {"corrections", "metrics", "losses", "config"},
    {"runs"},
    {"preparation", "inference"},
    {"stored_truth", "interactive"},
    {"training", "evaluation", "page"},
    {"reports"},
    {"plots"},
    {"paper"},
    {"demo", "cli"},
)


def test_public_names():
    names = dir(interconv_seg)
    assert names == sorted(names)
    assert {"build", "automatic_loss", "interactive_loss", "training", "evaluation", "inference"} <= set(names)
    assert not [name for name in names if name.startswith("_") or name in ("annotations", "import_module")]
    for name in names:
        assert getattr(interconv_seg, name).__doc__
    assert interconv_seg.build is interconv_seg.networks.build
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        interconv_seg.biuld  # noqa: B018


def imported(path):
    """The modules of the package, at its top level, that a file imports."""
    depth = len(path.relative_to(FOLDER).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            yield from names


def test_imports_go_downwards():
    layer_of = {name: i for i, names in enumerate(LAYERS) for name in names}
    found = {path.relative_to(FOLDER).parts[0].removesuffix(".py") for path in FOLDER.rglob("*.py")}
    assert found == {"__init__", *layer_of}
    for path in FOLDER.rglob("*.py"):
        module = path.relative_to(FOLDER).parts[0].removesuffix(".py")
        for other in imported(path) if module != "__init__" else ():
            allowed = layer_of[other] < layer_of[module] or other == module
            assert allowed, f"{path.relative_to(FOLDER)} imports {other}"
