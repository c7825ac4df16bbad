"""Checkpoints of the network as it was load into the changed network: hooks of `load_state_dict`.

The layers themselves widen the weight W of a plain layer to [W | 0]. These hooks are for keys that have other names.
They look at the modules as they are when a checkpoint is loaded, so they are copied, pickled and left behind safely.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..modules import SetLayer


def load_appended(pair: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """For what `append_interconv` made: the keys of the layer alone, and an InterConv that changes nothing."""
    layer, interconv = [*pair.children(), None, None][:2]
    if layer is None or not isinstance(interconv, SetLayer):
        return
    keys = list(layer.state_dict(keep_vars=True))
    is_baseline = keys and all(prefix + key in state for key in keys)
    if not is_baseline or all(f"{prefix}0.{key}" in state for key in keys):
        return
    for key, value in [(key, state.pop(prefix + key)) for key in keys]:
        state[f"{prefix}0.{key}"] = value
    device = next((value.device for value in state.values() if isinstance(value, Tensor)), interconv.weight.device)
    identity = identity_interconv(interconv, device)
    state.update({f"{prefix}1.{key}": value for key, value in identity.items()})


def load_merged(sequence: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """For nn.Sequential(a layer with a PReLU, nn.Identity): the PReLU's weight by the name of the Identity."""
    for (key, layer), (next_key, follower) in pairwise(sequence.named_children()):
        if isinstance(layer, SetLayer) and isinstance(follower, nn.Identity):
            separate, merged = f"{prefix}{next_key}.weight", f"{prefix}{key}.activation.weight"
            if separate in state and isinstance(layer.activation, nn.PReLU):
                state[merged] = state.pop(separate)


def identity_interconv(layer: SetLayer, device: torch.device) -> dict[str, Tensor]:
    """The state of a layer F -> F that returns u: Wu = identity, Ws = 0 and zero bias."""
    weight = torch.zeros(layer.weight.shape, dtype=layer.weight.dtype, device=device)
    own = weight.chunk(2, dim=1)[0]
    for size in weight.shape[2:]:
        own = own.select(2, size // 2)
    own.fill_diagonal_(1)
    bias = {} if layer.bias is None else {"bias": weight.new_zeros(weight.shape[0])}
    return {"weight": weight, **bias}
