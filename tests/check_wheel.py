"""`make test-wheel`: does the package work in an environment that holds the wheel, torch and numpy alone?"""

import sys
from importlib.metadata import distributions
from pathlib import Path

import torch

import interconv_kernels as ik
from interconv_kernels import selftest

assert Path(ik.__file__).is_relative_to(sys.prefix), f"{ik.__file__} is not in {sys.prefix}"
names = {distribution.name.lower() for distribution in distributions()}
assert not names & {"monai", "scipy", "matplotlib"}, f"more than torch and numpy is installed: {sorted(names)}"
assert ik.backends()["cpp"]["cpu"] == "ready", ik.backends()["cpp"]

network = ik.SetModel(torch.nn.Sequential(ik.InterConv2d(1, 8), torch.nn.ReLU(), ik.InterConv2d(8, 2)))
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
images = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
losses = []
for _ in range(3):
    loss = torch.nn.functional.cross_entropy(network(images, [3, 1, 2]), (images[:, 0] > 0).long())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[2] < losses[1] < losses[0], losses

print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, loss {losses[0]:.4f} -> {losses[2]:.4f}")
sys.exit(selftest.main(["--device", "cpu"]))
