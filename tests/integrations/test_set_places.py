"""Sets in networks and training loops of timm, MONAI, torchvision and Lightning."""

from concurrent.futures import ThreadPoolExecutor

import lightning
import pytest
import timm
import torch
from monai.data import DataLoader, MetaTensor, decollate_batch
from monai.networks.nets import SwinUNETR
from timm.models import FeatureGraphNet
from torch import nn
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import interconv_kernels as ik

FIRST, SECOND = [3, 1], [2, 2]


def with_interconv(network):
    """With weights for the set means that are not zero."""
    ik.replace_with_interconv(network)
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, ik.InterConv2d):
                layer.weight[:, layer.in_channels :].normal_(std=0.02)
    return network


def gradients(model, batches, in_thread):
    """The gradients of the summed loss of all batches, all forward passes before the only backward pass."""
    model.zero_grad()
    loss = sum(model(x, ik.Sets.from_lengths(lengths)).square().mean() for x, lengths in batches)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(loss.backward).result() if in_thread else loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_checkpointing(network, switch, channels, size):
    """`switch(network)` turns checkpointing on; the gradients stay the same, in whatever thread backward runs."""
    model = ik.SetModel(with_interconv(network).double().train())
    batches = [(torch.randn(4, channels, size, size, dtype=torch.float64), lengths) for lengths in (FIRST, SECOND)]
    want = gradients(model, batches, in_thread=False)
    other = gradients(model, [(x, [4]) for x, _ in batches], in_thread=False)
    assert any((other[name] - want[name]).abs().max() > 1e-6 for name in want)
    with pytest.MonkeyPatch.context() as patch:
        calls = []
        original = torch.utils.checkpoint._CheckpointFrame.__init__
        reentrant = torch.utils.checkpoint.CheckpointFunction.forward
        patch.setattr(
            torch.utils.checkpoint._CheckpointFrame, "__init__", lambda *a, **k: calls.append(1) or original(*a, **k)
        )
        patch.setattr(
            torch.utils.checkpoint.CheckpointFunction,
            "forward",
            staticmethod(lambda *a: calls.append(1) or reentrant(*a)),
        )
        switch(network)
        for in_thread in (False, True):
            got = gradients(model, batches, in_thread)
            assert got.keys() == want.keys()
            for name in want:
                torch.testing.assert_close(got[name], want[name], rtol=1e-6, atol=1e-10)
        assert len(calls) >= 4  # the network did use checkpointing, for each batch


TIMM = {
    "resnet10t": {"channels": (8, 8, 16, 16)},
    "convnext_atto": {"depths": (1, 2, 1, 1), "dims": (8, 8, 16, 16)},
    "vit_tiny_patch16_224": {"img_size": 32, "embed_dim": 24, "depth": 2},
}


@pytest.mark.drop_in("timm", "checkpointing: set_grad_checkpointing of {name}, backward in two threads")
@pytest.mark.parametrize("name", TIMM)
def test_timm_gradient_checkpointing(name):
    network = timm.create_model(name, num_classes=3, **TIMM[name])
    check_checkpointing(network, lambda network: network.set_grad_checkpointing(True), 3, 32)


@pytest.mark.drop_in("MONAI", "checkpointing: use_checkpoint of SwinUNETR, backward in two threads")
def test_monai_use_checkpoint():
    network = SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))

    def switch(network):
        for module in network.modules():
            if hasattr(module, "use_checkpoint"):
                module.use_checkpoint = True

    check_checkpointing(network, switch, 1, 64)


@pytest.mark.drop_in("torchvision", "create_feature_extractor")
def test_torchvision_feature_extraction():
    network = with_interconv(resnet18(num_classes=3)).eval()
    names = get_graph_node_names(network)[1]
    assert {"conv1", "layer1.0.conv1", "layer4.1.conv2", "layer2.0.downsample.0"} <= set(names)
    extractor = create_feature_extractor(network, {"layer1.0.conv1": "early", "layer4": "late"})
    x = torch.randn(4, 3, 32, 32)
    kept = {}
    handles = [
        network.get_submodule(name).register_forward_hook(lambda _, __, y, key=key: kept.__setitem__(key, y))
        for name, key in (("layer1.0.conv1", "early"), ("layer4", "late"))
    ]
    for lengths in (FIRST, SECOND):
        ik.SetModel(network)(x, lengths)
        features = ik.SetModel(extractor)(x, lengths)
        assert features.keys() == {"early", "late"}
        for name, feature in features.items():
            torch.testing.assert_close(feature, kept[name])
    for handle in handles:
        handle.remove()


@pytest.mark.drop_in("timm", "FeatureGraphNet")
def test_timm_feature_graph():
    network = with_interconv(timm.create_model("resnet10t", num_classes=3)).eval()
    features = FeatureGraphNet(network, out_indices=(0, 1), return_dict=False)
    x = torch.randn(4, 3, 32, 32)
    got = ik.SetModel(features)(x, FIRST)
    want = ik.SetModel(timm.create_model("resnet10t", features_only=True, out_indices=(0, 1)))
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("fc")}
    with_interconv(want.network).load_state_dict(state, strict=False)
    for one, other in zip(got, want.eval()(x, FIRST), strict=True):
        torch.testing.assert_close(one, other)


class Patients(torch.utils.data.Dataset):
    """A set per item, of 1 to 4 images."""

    def __init__(self, image_type=torch.Tensor):
        self.image_type = image_type

    def __len__(self):
        return 4

    def __getitem__(self, b):
        images = torch.full((b + 1, 1, 8, 8), float(b))
        return {"image": self.image_type(images), "mask": images[:, 0] > 1, "subject": f"s{b}"}


@pytest.mark.drop_in("MONAI", "DataLoader with ik.collate, decollate_batch")
@pytest.mark.parametrize("image_type", [torch.Tensor, MetaTensor])
@pytest.mark.parametrize("workers", [0, 1])
def test_monai_data_loader_and_decollate(image_type, workers):
    loader = DataLoader(Patients(image_type), batch_size=2, collate_fn=ik.collate, num_workers=workers)
    for batch, lengths in zip(loader, ([1, 2], [3, 4]), strict=True):
        y = ik.SetModel(with_interconv(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))))(batch["image"], batch["sets"])
        assert y.shape == (sum(lengths), 2, 8, 8)
        del batch["subject"]  # one for each set, not for each image
        samples = decollate_batch(batch)
        assert len(samples) == sum(lengths)
        for i, sample in enumerate(samples):
            assert torch.equal(torch.as_tensor(sample["image"]), torch.as_tensor(batch["image"])[i])
            assert torch.equal(sample["mask"], batch["mask"][i])
            assert sample["sets"] == ik.Sets.from_lengths(lengths)


class Segmenter(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = ik.SetModel(with_interconv(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))))
        self.losses, self.devices_seen = [], set()

    def training_step(self, batch, index):
        self.devices_seen |= {batch["image"].device, batch["sets"].device}
        loss = (self.model(batch["image"], batch["sets"]) - batch["mask"][:, None, 2:-2, 2:-2].float()).square().mean()
        self.log("loss", loss, batch_size=len(batch["sets"]))
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


@pytest.mark.drop_in("Lightning", "Trainer.fit, transfer_batch_to_device")
@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path):
    module = Segmenter()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=5, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(Patients(), batch_size=2, collate_fn=ik.collate))
    assert len(module.losses) == 10
    assert module.losses[-1] < module.losses[0]
    moved = module.transfer_batch_to_device(ik.collate([Patients()[2]]), torch.device("meta"), 0)
    assert {moved["image"].device.type, moved["sets"].device.type} == {"meta"}
    assert moved["sets"].lengths == (3,)
