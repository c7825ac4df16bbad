"""A second fused layer for `ik.tune` to time, beside that of backend "triton"."""

from interconv_kernels import algorithms
from interconv_kernels._backends.registry import BACKENDS
from interconv_kernels.choice import Choice

FAST, SLOW = "halo-8x16", "halo-8x32"


class PlantedLayer:
    """A fused layer of backend "cpp" with two tiles and, backward, two more for grad_W.

    Attributes:
        calls: the tiles of every call.
        fault: {tile: a factor of the result}.
    """

    def __init__(self):
        self.calls, self.fault = [], {}

    def can_fuse(self, conv, u, weight):
        return None if u.shape[1] % 4 == 0 else f"C = {u.shape[1]}: expected a multiple of 4"

    def candidates(self, direction, conv, u, weight):
        found = {"tile": [SLOW, FAST]}
        return found if direction == "forward" else {**found, "grad_W": ["one", "two"]}

    def forward(self, conv, u, weight, bias, sets, max_centered, slope, tiles):
        y = algorithms.forward(Choice(BACKENDS["torch"], "split"), conv, u, weight, bias, sets, slope)
        return y * self.used(tiles)

    def backward(self, conv, g, u, weight, sets, need, max_centered, tiles):
        grads = algorithms.backward(Choice(BACKENDS["torch"], "split"), conv, g, u, weight, sets, need)
        factor = self.used(tiles)
        return tuple(None if grad is None else grad * factor for grad in grads)

    def used(self, tiles):
        self.calls.append(dict(tiles))
        return self.fault.get(tiles.get("tile"), 1.0)
