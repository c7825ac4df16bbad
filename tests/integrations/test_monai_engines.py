"""MONAI's engines on sets against the same steps by hand."""

import copy

import interconv_seg
import pytest
import torch
from interconv_seg.monai import SetDataset, SetSlidingWindowInferer, collate, prepare_batch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, from_engine
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.transforms import AsDiscreted

import interconv_kernels as ik


@pytest.fixture
def loader():
    random = torch.Generator().manual_seed(0)
    samples = []
    for i, subject in enumerate("aabcccdd"):
        mask = torch.zeros(1, 40, 48)
        mask[:, 10:30, 10 + i : 30] = 1
        image = mask + 0.3 * torch.randn(1, 40, 48, generator=random)
        samples.append({"image": MetaTensor(image, meta={"name": str(i)}), "label": MetaTensor(mask), "set": subject})
    return DataLoader(SetDataset(samples), batch_size=2, collate_fn=collate)


def network():
    torch.manual_seed(0)
    return interconv_seg.build("simpleunet", "replace", features=4, classes=2)


LOSS = DiceCELoss(to_onehot_y=True, softmax=True)


@pytest.mark.drop_in("MONAI", "SupervisedTrainer: the weights are those of the same steps by hand")
def test_trainer(loader):
    ours, theirs = network(), network()
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.01)
    for _ in range(2):
        for batch in loader:
            optimizer.zero_grad()
            LOSS(ours(batch["image"].as_tensor(), batch["sets"]), batch["label"].as_tensor()).backward()
            optimizer.step()
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=loader,
        network=theirs,
        optimizer=torch.optim.Adam(theirs.parameters(), lr=0.01),
        loss_function=LOSS,
        prepare_batch=prepare_batch,
    )
    before = copy.deepcopy(theirs.state_dict())
    trainer.run()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(value, ours.state_dict()[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, before[name])


@pytest.mark.drop_in("MONAI", "SupervisedEvaluator: sliding windows over sets, metrics and metadata of each image")
def test_evaluator(loader):
    model, inferer = network().eval(), SetSlidingWindowInferer((32, 32), 8, overlap=0.5, mode="gaussian")
    names = []
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=model,
        prepare_batch=prepare_batch,
        inferer=inferer,
        postprocessing=AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=2),
        key_val_metric={"dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))},
    )
    evaluator.add_event_handler(
        "ITERATION_COMPLETED", lambda e: names.extend(y["pred"].meta["name"] for y in e.state.output)
    )
    evaluator.run()
    metric = DiceMetric(include_background=False)
    with torch.no_grad():
        for batch in loader:
            found = inferer(batch["image"].as_tensor(), model, batch["sets"]).argmax(1)
            onehot = torch.nn.functional.one_hot(found, 2).movedim(-1, 1)
            metric(onehot, torch.cat([1 - batch["label"].as_tensor(), batch["label"].as_tensor()], 1))
    assert evaluator.state.metrics["dice"] == pytest.approx(metric.aggregate().item(), abs=1e-6)
    assert names == list("01234567")


def small_network():
    torch.manual_seed(0)
    return ik.SetModel(torch.nn.Sequential(ik.InterConv2d(1, 2), torch.nn.ReLU(), ik.InterConv2d(2, 2))).requires_grad_(
        False
    )


@pytest.mark.drop_in("MONAI", "SetSlidingWindowInferer with a network in torch.compile")
def test_a_compiled_network():
    model, images, sets = small_network(), torch.randn(5, 1, 40, 48), ik.Sets.from_lengths([3, 2])
    inferer, compiled = SetSlidingWindowInferer((32, 32), 8), torch.compile(model, backend="eager", dynamic=True)
    torch.testing.assert_close(inferer(images, compiled, sets), inferer(images, model, sets), rtol=1e-4, atol=1e-5)
