"""The paper's tables of network sizes, counted anew."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .registry import SIZES, Features, Placement, build

NOTE = (
    "* The paper gives 34.9M for nnUNet-InterConv at full width. The rule that gives its 20.4M (every 3x3 convolution\n"
    "  takes twice the channels) gives 39.5M; 34.9M is what Table 6 gives for SwinUNet-InterConv 96."
)


@dataclass(frozen=True)
class Row:
    """A network of the paper: where it stands, its features, its parameters as counted, and the paper's figure."""

    table: str
    network: str
    features: Features
    parameters: int
    paper: str


def rows() -> list[Row]:
    """Tables 4 to 6, and ScribblePrompt (section 4.1), with 1 input channel and 21 classes (ScribblePrompt: 1)."""
    found = []
    for size, (family, baseline, replaced) in SIZES.items():
        table, names, figures = _PAPER[family]
        figures = figures or (size.removeprefix(f"{family}-"),) * 2
        found.append(Row(table, names[0], baseline, count_parameters(family, None, baseline), figures[0]))
        found.append(Row(table, names[1], replaced, count_parameters(family, "replace", replaced), figures[1]))
        if family in _FULL_WIDTH:
            full = count_parameters(family, "replace", baseline)
            found.append(Row(table, names[1], baseline, full, _FULL_WIDTH[family]))
    return found


def count_parameters(family: str, interconv: Placement | None, features: Features) -> int:
    """Parameters of a family's network with 1 input channel and 21 classes (scribbleprompt: 1). No memory is taken."""
    with torch.device("meta"):
        network = build(family, interconv, classes=1 if family == "scribbleprompt" else 21, features=features)
    return sum(p.numel() for p in network.parameters())


def main() -> None:
    """Print the tables as markdown."""
    print("| paper | network | features | parameters | the paper's figure |")
    print("|---|---|---|---:|---:|")
    for row in rows():
        features = row.features if isinstance(row.features, int) else ", ".join(map(str, row.features))
        print(f"| {row.table} | {row.network} | {features} | {row.parameters:,} | {row.paper} |")
    print(f"\n{NOTE}")


# Family: its table, its names there and the paper's figures, each (baseline, InterConv); None: as the size is named.
_PAPER: dict[str, tuple[str, tuple[str, str], tuple[str, str] | None]] = {
    "simpleunet": ("Table 4", ("SimpleUNet", "SimpleUNet-InterConv"), None),
    "nnunet": ("Table 5", ("nnUNet", "nnUNet-InterConv"), ("20.6M", "20.4M")),
    "swinunet": ("Table 6", ("SwinUNet", "SwinUNet-InterConv"), ("27.1M", "26.8M")),
    "scribbleprompt": ("section 4.1", ("ScribblePrompt-UNet", "ScribblePrompt-InterConv"), ("3.6M", "3.6M")),
}
# InterConv networks that the paper also gives at their baseline's width.
_FULL_WIDTH = {"nnunet": "34.9M *", "swinunet": "34.9M"}
