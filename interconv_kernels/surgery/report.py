"""What was changed in a network, what was left as it is, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn


class Change(NamedTuple):
    """A layer that was changed.

    Attributes:
        name: of the layer in the network, "" for the network itself.
        before: the layer as it was.
        after: the layer as it is.
        note: what else there is to know, or "".
    """

    name: str
    before: str
    after: str
    note: str = ""


@dataclass
class SurgeryReport:
    """What `replace_with_interconv`, `append_interconv` or `revert` did.

    Attributes:
        model: the changed network: the object that was given, unless that itself was a layer to change.
        changed: the layers that were changed.
        skipped: (name, reason) of each selected layer that was left as it is.
        parameters: the new parameters. A replaced layer has a new weight and the bias that it had.
        dead: how many parameters the network no longer has. An optimizer made before still holds them.
        counts: the number of values in all parameters of the network, (before, after).
    """

    model: nn.Module
    changed: list[Change] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)
    dead: int = 0
    counts: tuple[int, int] = (0, 0)

    def param_groups(self, new_lr: float, old_lr: float) -> list[dict[str, Any]]:
        """Groups for an optimizer that fine-tunes: `torch.optim.AdamW(report.param_groups(1e-3, 1e-4))`.

        The weight [W | 0] of a replaced layer is one parameter, so that its trained half learns at `new_lr` too.

        Args:
            new_lr: learning rate of `parameters`.
            old_lr: learning rate of all other parameters of the network.

        Returns:
            Two groups, the new parameters first; one group if there are no others.
        """
        new = set(self.parameters)
        old = [parameter for parameter in self.model.parameters() if parameter not in new]
        groups: list[dict[str, Any]] = [{"params": list(self.parameters), "lr": new_lr}, {"params": old, "lr": old_lr}]
        return [group for group in groups if group["params"]]

    def __str__(self) -> str:
        lines = [f"{len(self.changed)} layers changed, parameters {self.counts[0]:,} -> {self.counts[1]:,}"]
        for name, before, after, note in self.changed:
            lines.append(f"  {name or '(the model)'}: {before} -> {after}" + (f" ({note})" if note else ""))
        lines += [f"  {name or '(the model)'}: left as it is, {reason}" for name, reason in self.skipped]
        if self.parameters or self.dead:
            lines.append(
                f"An optimizer made before holds {self.dead} parameters that are no longer in the network, and lacks"
                f" {len(self.parameters)} new ones: make it again, for example of report.param_groups(new_lr, old_lr)"
            )
        return "\n".join(lines)
