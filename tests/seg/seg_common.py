"""What several tests share."""

from dataclasses import replace

import pytest
import torch
from interconv_seg import build, data
from interconv_seg.config import Config
from interconv_seg.data import Group, Sample

BINARY = Config(mode="interactive", network="simpleunet", features=2, size=(16, 16))
CLASSES = replace(BINARY, mode="automatic", labels={1: "a", 2: "b"})


def group(count, name="g", label=None, seed=0):
    random = torch.Generator().manual_seed(seed)
    samples = []
    for i in range(count):
        mask = torch.randint(0, 3, (16, 16), generator=random).short()
        image = torch.rand(1, 16, 16, generator=random)
        samples.append(Sample(f"{name}{i}", f"s{i // 2}", "t", image, mask, (16, 16)))
    return Group(name, tuple(samples), label)


class Spy:
    """In place of an ensemble: records its batches, and predicts class 1 everywhere."""

    def __init__(self, config):
        self.config, self.batches, self.window = config, [], None

    def probabilities(self, batch):
        self.batches.append(batch)
        found = torch.zeros(len(batch.images), max(2, self.config.classes), *batch.images.shape[2:])
        found[:, 1] = 1
        return found


def refused(path, *words, read=data.read, **options):
    with pytest.raises(data.DataError) as caught:
        read(path, **options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def read_and_load(path):
    return data.read(path).load()


SMALL = {"simpleunet": 4, "nnunet": (4, 6, 8), "swinunet": 6, "scribbleprompt": 4}
PLACEMENTS = (None, "replace", "append")
each_network = pytest.mark.parametrize(
    ("family", "interconv"), [(family, placement) for family in SMALL for placement in PLACEMENTS]
)
each_interconv = pytest.mark.parametrize(
    ("family", "interconv"), [(family, placement) for family in SMALL for placement in ("replace", "append")]
)


def small(family, interconv, in_channels=2, classes=3):
    torch.manual_seed(0)
    return build(family, interconv, in_channels=in_channels, classes=classes, features=SMALL[family])
