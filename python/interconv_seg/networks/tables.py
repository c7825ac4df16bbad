"""The paper's tables of network sizes, counted from the networks of this package."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .registry import SIZES, Features, Placement, build

NOTE = (
    "* The paper gives 34.9M for nnUNet-InterConv at full width. The rule that gives its 20.4M (every 3x3 convolution\n"
    "  takes twice the channels) gives 39.5M; 34.9M is what Table 6 gives for SwinUNet-InterConv 96."
)
# The names of each family in the paper: (baseline, InterConv), in the order of its tables.
FAMILY_NAMES = {
    "simpleunet": ("SimpleUNet", "SimpleUNet-InterConv"),
    "swinunet": ("SwinUNet", "SwinUNet-InterConv"),
    "nnunet": ("nnUNet", "nnUNet-InterConv"),
    "scribbleprompt": ("ScribblePrompt-UNet", "ScribblePrompt-InterConv"),
}
# Per family: its table in the paper, and the paper's parameter counts, as (baseline, InterConv). None: the names of the
# sizes are the counts.
_PAPER: dict[str, tuple[str, tuple[str, str] | None]] = {
    "simpleunet": ("Table 4", None),
    "nnunet": ("Table 5", ("20.6M", "20.4M")),
    "swinunet": ("Table 6", ("27.1M", "26.8M")),
    "scribbleprompt": ("section 4.1", ("3.6M", "3.6M")),
}
# The InterConv networks for which the paper also gives the count at the width of the baseline.
_FULL_WIDTH = {"nnunet": "34.9M *", "swinunet": "34.9M"}


@dataclass(frozen=True)
class PaperNetwork:
    """A network of the paper.

    Attributes:
        table: the table or section of the paper that lists it.
        network: its name there.
        features: channels of its layers.
        parameters: its number of parameters, counted.
        paper: the number in the paper, such as "20.4M".
    """

    table: str
    network: str
    features: Features
    parameters: int
    paper: str


def paper_networks() -> list[PaperNetwork]:
    """The networks of Tables 4 to 6 and ScribblePrompt (section 4.1), counted as in `count_parameters`."""
    found = []
    for size, (family, baseline, replaced) in SIZES.items():
        table, counts = _PAPER[family]
        names = FAMILY_NAMES[family]
        counts = counts or (size.removeprefix(f"{family}-"),) * 2
        found.append(PaperNetwork(table, names[0], baseline, count_parameters(family, None, baseline), counts[0]))
        found.append(PaperNetwork(table, names[1], replaced, count_parameters(family, "replace", replaced), counts[1]))
        if family in _FULL_WIDTH:
            full = count_parameters(family, "replace", baseline)
            found.append(PaperNetwork(table, names[1], baseline, full, _FULL_WIDTH[family]))
    return found


def count_parameters(family: str, interconv: Placement | None, features: Features) -> int:
    """The parameters of a network with 1 input channel and 21 classes (scribbleprompt: 1). Allocates no memory.

    Args:
        family: a name in `FAMILIES`.
        interconv: the placement, as in `build`.
        features: channels of its layers, as in `build`.
    """
    with torch.device("meta"):
        network = build(family, interconv, classes=1 if family == "scribbleprompt" else 21, features=features)
    return sum(p.numel() for p in network.parameters())


def features_text(features: Features) -> str:
    """The features of a network, for tables.

    Args:
        features: as in `build`.
    """
    return str(features) if isinstance(features, int) else ", ".join(map(str, features))


def main() -> None:
    """Prints the tables as Markdown."""
    print("| paper | network | features | parameters | in the paper |")
    print("|---|---|---|---:|---:|")
    for entry in paper_networks():
        cells = (entry.table, entry.network, features_text(entry.features), f"{entry.parameters:,}", entry.paper)
        print(f"| {' | '.join(cells)} |")
    print(f"\n{NOTE}")
