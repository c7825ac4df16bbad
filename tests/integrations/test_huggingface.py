"""Networks of the Hub and kernel repositories, from local folders: nothing is up- or downloaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import interconv_seg
import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from interconv_seg.hub import HubNetwork

import interconv_kernels as ik

ROOT = Path(__file__).parents[2]


@pytest.mark.drop_in("Hugging Face Hub", "save_pretrained and from_pretrained of {name}, {placement}")
@pytest.mark.parametrize("placement", ["replace", "append"])
@pytest.mark.parametrize(
    ("name", "features"), [("simpleunet", 2), ("nnunet", [2, 3]), ("swinunet", 6), ("scribbleprompt", 2)]
)
def test_networks_come_back(tmp_path, name, features, placement):
    torch.manual_seed(0)
    model = HubNetwork(name, placement, classes=3, features=features).eval()
    model.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in tmp_path.iterdir()}
    loaded = HubNetwork.from_pretrained(tmp_path)
    x = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x, [2, 1]), model(x, [2, 1]))
    assert json.loads((tmp_path / "config.json").read_text())["interconv"] == placement


@pytest.mark.drop_in("Hugging Face Hub", "weights of a run of interconv_seg load into HubNetwork and back")
def test_state_dicts_are_those_of_build():
    built = interconv_seg.build("simpleunet-60K", "replace", classes=2)
    model = HubNetwork("simpleunet-60K", "replace", classes=2)
    model.load_state_dict(built.state_dict())
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(model(x, 2), built(x, 2))


class Network(torch.nn.Module, PyTorchModelHubMixin):
    """A user's network after surgery."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(1, width, 3, padding=1), torch.nn.ReLU())
        ik.replace_with_interconv(self.layers)

    def forward(self, x, sets):
        with ik.use_sets(sets):
            return self.layers(x)


@pytest.mark.drop_in("Hugging Face Hub", "PyTorchModelHubMixin on a user's network with InterConv2d")
def test_a_users_network(tmp_path):
    model = Network(width=3)
    torch.nn.init.normal_(model.layers[0].weight)
    model.save_pretrained(tmp_path)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(Network.from_pretrained(tmp_path)(x, [2, 1]), model(x, [2, 1]))


LOADED = """
import sys
from pathlib import Path
import kernels, torch
{statement}
assert "interconv_kernels" not in sys.modules and ik.__file__.startswith({folder!r}), ik.__file__
assert ({expected!r} in ik.__file__) and (ik.backends()["cpp"]["cpu"] == "ready") == {extension}, ik.backends()["cpp"]
torch.manual_seed(0)
u = torch.randn(4, 2, 8, 8, requires_grad=True)
layer = ik.InterConv2d(2, 3)
y = layer(u, [3, 1])
y.square().sum().backward()
s = torch.cat([part.mean(0, keepdim=True).expand_as(part) for part in u.detach().split([3, 1])])
expected = torch.nn.functional.conv2d(torch.cat([u.detach(), s], 1), layer.weight, layer.bias, padding=1)
torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
assert u.grad.abs().sum() > 0
"""
WAYS = {
    "get_local_kernel, on the CPU": (
        "ik = kernels.get_local_kernel(Path({folder!r}), backend='cpu')",
        "abi213-cpu-",
        True,
    ),
    "get_local_kernel, torch with CUDA": ("ik = kernels.get_local_kernel(Path({folder!r}))", "abi213-cu130-", True),
    "get_kernel of an owner's repository": (
        "ik = kernels.get_kernel('owner/interconv-kernels', version=1, backend='cpu')",
        "abi213-cpu-",
        True,
    ),
    "the variant without the extension": (
        "ik = kernels.get_local_kernel(Path({folder!r}).with_name('pure'), backend='cpu')",
        "torch-cpu",
        False,
    ),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The repository, and beside it `pure`, with the variants for any platform only."""
    folder = tmp_path_factory.mktemp("kernel") / "hf-kernel"
    for path in (folder, folder.with_name("pure")):
        subprocess.run([sys.executable, ROOT / "tools/hf_kernel.py", path], check=True, capture_output=True)
    for variant in folder.with_name("pure").glob("build/torch-stable-abi*"):
        variant.rename(folder.with_name(variant.name))
    return folder


@pytest.mark.drop_in("Hugging Face kernels", "{way}: forward and backward")
@pytest.mark.parametrize("way", WAYS)
def test_the_kernel_loads(repository, way):
    statement, expected, extension = WAYS[way]
    if "cu130" in expected and not list(repository.glob("build/*cu130*")):
        expected = "torch-cuda"  # the extension of this environment was built without CUDA
        extension = False
    where = str(repository.parent)
    statement = statement.format(folder=str(repository))
    code = LOADED.format(statement=statement, folder=where, expected=expected, extension=extension)
    environment = {**os.environ, "LOCAL_KERNELS": f"owner/interconv-kernels={repository}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
