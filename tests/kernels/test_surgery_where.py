"""The argument `where=` of the placements."""

import pytest
import torch
from torch import nn

import interconv_kernels as ik


class UNet(nn.Module):
    """Two levels of pooling; the layers are defined in another order than they are called."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(4, 2, 1)
        self.bottom = nn.Conv2d(4, 4, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)])
        self.up = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)])
        self.norm = nn.BatchNorm2d(4)
        self.unused = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.norm(self.down[0](x))
        x = self.down[1](nn.functional.max_pool2d(x, 2))
        x = self.bottom(nn.functional.max_pool2d(x, 2))
        for layer in self.up:
            x = layer(nn.functional.interpolate(x, scale_factor=2))
        return self.head(x)


def changed(where, place=ik.replace_with_interconv):
    return [change.name for change in place(UNet(), where=where).changed]


@pytest.mark.drop_in("PyTorch", "surgery: where= by name, type, predicate")
def test_names_types_and_predicates():
    assert changed("down.*") == ["down.0", "down.1"]
    assert changed(["head", "up.1"]) == ["head", "up.1"]
    assert changed(lambda name, module: isinstance(module, nn.Conv2d) and module.in_channels == 1) == ["down.0"]
    assert changed((nn.BatchNorm2d, "head"), ik.append_interconv) == ["head", "norm"]
    assert len(changed(nn.Conv2d)) == 7


@pytest.mark.drop_in("PyTorch", "surgery: where=ik.every(n)")
def test_every():
    assert changed(ik.every(2)) == ["head", "down.0", "up.0", "unused"]
    assert changed(ik.every(3, of=["down.*", "up.*"])) == ["down.0", "up.1"]
    assert changed(ik.every(1, of=nn.BatchNorm2d), ik.append_interconv) == ["norm"]
    assert changed(ik.every(2, of=ik.every(2))) == ["head", "up.0"]


@pytest.mark.drop_in("PyTorch", "surgery: where=ik.deepest(levels, images)")
def test_deepest():
    images = torch.randn(3, 1, 8, 8)
    assert changed(ik.deepest(1, images)) == ["bottom"]
    assert changed(ik.deepest(2, images)) == ["bottom", "down.1", "up.0"]
    assert changed(ik.deepest(9, images)) == ["head", "bottom", "down.0", "down.1", "up.0", "up.1"]
    assert changed(ik.deepest(1, images, of="down.*"), ik.append_interconv) == ["down.1"]
    assert changed(ik.every(2, of=ik.deepest(2, images))) == ["bottom", "up.0"]


def test_looking_for_the_deepest_layers_leaves_no_trace():
    net = UNet()
    net.norm.eval()
    net.down[0].eval()
    before = {name: x.clone() for name, x in net.state_dict().items()}
    ik.append_interconv(net, where=ik.deepest(1, torch.randn(3, 1, 8, 8), of=nn.BatchNorm2d))
    assert net.training
    assert not net.norm.training
    assert not net.norm[0].training
    assert not net.down[0].training
    assert all(torch.equal(net.state_dict()[name.replace("norm", "norm.0")], x) for name, x in before.items())
    assert not net.norm[0]._forward_hooks
    with pytest.raises(RuntimeError):
        ik.replace_with_interconv(net, where=ik.deepest(1, torch.randn(1, 7, 8, 8)))
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_deepest_in_a_network_that_has_interconv_already():
    net = UNet()
    ik.replace_with_interconv(net, where="down.0")
    report = ik.replace_with_interconv(net, where=ik.deepest(1, torch.randn(2, 1, 8, 8)))
    assert [change.name for change in report.changed] == ["bottom"]


def test_wrong_values():
    for where in (3, ["a", 3], [ik.every(2)], [lambda name, module: True]):
        with pytest.raises(TypeError, match="where = "):
            ik.replace_with_interconv(UNet(), where=where)
    with pytest.raises(ValueError, match="n = 0: expected at least 1"):
        ik.every(0)
    with pytest.raises(TypeError, match=r"levels = 1\.5: expected an int"):
        ik.deepest(1.5, torch.zeros(1))
    with pytest.raises(ValueError, match=r"nothing to change in UNet: every\(2, of='nothing'\) selects 0 layers"):
        ik.replace_with_interconv(UNet(), where=ik.every(2, of="nothing"))
    with pytest.raises(ValueError, match=r"deepest\(1, images \(1, 1, 8, 8\), of=\['x'\]\) selects 0"):
        ik.replace_with_interconv(UNet(), where=ik.deepest(1, torch.zeros(1, 1, 8, 8), of=["x"]))
