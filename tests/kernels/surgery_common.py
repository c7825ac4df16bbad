"""What the tests of surgery share."""

import torch
from torch import nn

import interconv_kernels as ik

X = torch.randn(5, 3, 8, 9, generator=torch.Generator().manual_seed(0))
SETS = [2, 3]


def conv(**options):
    return nn.Conv2d(3, 3, 3, padding=1, **options)


def network(layer):
    """A layer in question, and a plain one, so that there is something to change."""
    torch.manual_seed(0)
    return nn.Sequential(layer, nn.ReLU(), nn.Conv2d(3, 2, 1))


def outputs_are_kept(net, place=ik.replace_with_interconv, **options):
    """Changes the network, checks its outputs, and returns the report."""
    want = net(X)
    report = place(net, **options)
    torch.testing.assert_close(ik.SetModel(report.model)(X, SETS), want, rtol=1e-5, atol=1e-6)
    return report
