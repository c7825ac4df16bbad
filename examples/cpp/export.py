"""Writes what segment.cpp reads into a folder: model.pt2 (AOTInductor), model.pt (TorchScript) and inputs.pt."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import interconv_kernels as ik


def network() -> nn.Module:
    """A small network with InterConv; load your own here, in eval mode."""
    torch.manual_seed(0)
    layers = [ik.InterConv2d(1, 16, activation=nn.PReLU()), ik.InterConv2d(16, 16), nn.ReLU(), ik.InterConv2d(16, 3, 1)]
    return ik.SetModel(nn.Sequential(*layers)).eval()


class WithTensors(nn.Module):
    """The network with the index tensors of sets, none of them empty, in place of `Sets`, for TorchScript."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, offsets: Tensor, set_ids: Tensor) -> Tensor:
        return self.network(images, ik.Sets(offsets, set_ids, offsets, set_ids))


@torch.no_grad()
def main(folder: Path) -> None:
    """Exports the network, with any number of images and sets."""
    model, images, sets = network(), torch.randn(5, 1, 32, 32), ik.Sets.from_lengths([2, 3])
    n, b = torch.export.Dim("n", min=2), torch.export.Dim("b", min=2)
    shapes = {"x": {0: n}, "sets": [{0: b}, {0: n}, {0: b}, {0: n}]}
    program = torch.export.export(model, (images, sets), dynamic_shapes=shapes)
    torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "model.pt2"))
    torch.jit.trace(WithTensors(model), (images, sets.offsets, sets.set_ids)).save(str(folder / "model.pt"))
    torch.save({"images": torch.randn(10, 1, 32, 32), "lengths": torch.tensor([4, 1, 5])}, folder / "inputs.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
