"""What surgery preserves exactly, wrappers, and what the report says of parameters."""

import copy
import pickle

import pytest
import torch
from surgery_common import SETS, X, conv, network, outputs_are_kept
from torch import nn

import interconv_kernels as ik

# --- what is preserved ------------------------------------------------------------------------------------------------


@pytest.mark.drop_in("PyTorch", "surgery: frozen layers stay frozen")
def test_frozen_layers_stay_frozen():
    net = network(conv())
    net[0].weight.requires_grad_(False)
    net[2].bias.requires_grad_(False)
    report = outputs_are_kept(net)
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, False]
    assert [change.note for change in report.changed] == ["its weight stays frozen", ""]
    assert "(its weight stays frozen)" in str(report)


@pytest.mark.drop_in("PyTorch", "surgery: attributes, buffers and parameters that a user added")
def test_subclasses_that_only_set_sizes_and_what_users_added():
    class Conv3x3(nn.Conv2d):
        """A usual way to save typing."""

        lengths: list[int]

        def __init__(self, features):
            super().__init__(features, features, 3, padding=1)
            self.level = 4

    layer = Conv3x3(3)
    layer.register_buffer("seen", torch.ones(2))
    layer.register_buffer("scratch", torch.ones(1), persistent=False)
    layer.scale = nn.Parameter(torch.ones(1))
    layer.weight.no_decay = True
    net = network(layer)
    outputs_are_kept(net)
    assert (net[0].level, net[0].weight.no_decay) == (4, True)
    assert net[0].seen is layer.seen
    assert net[0].scale is layer.scale
    assert set(net.state_dict()) == {"0.weight", "0.bias", "0.scale", "0.seen", "2.weight", "2.bias"}


@pytest.mark.drop_in("PyTorch", "surgery: dtype, memory format and train or eval mode")
@pytest.mark.parametrize("place", [ik.replace_with_interconv, ik.append_interconv])
def test_dtype_device_format_and_mode(place):
    net = network(conv()).to(torch.bfloat16, memory_format=torch.channels_last)
    net[0].eval()
    block = nn.Sequential(nn.BatchNorm2d(3).eval(), nn.Conv2d(3, 3, 1))
    net.append(nn.Conv2d(2, 3, 1)).append(block)
    place(net, where=("0", "4"))
    layer = net[0] if place is ik.replace_with_interconv else net[0][1]
    assert layer.weight.dtype == torch.bfloat16
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert not layer.weight.is_contiguous()
    assert not layer.training
    assert not block[0].training
    assert block[1].training


def test_channels_are_those_of_the_weight():
    """Some libraries exchange the weight of a first layer and forget its attributes."""
    net = network(nn.Conv2d(1, 3, 3, padding=1))
    net[0].weight = nn.Parameter(torch.randn(3, 3, 5, 5))
    net[0].padding = 2
    outputs_are_kept(net)
    assert (net[0].in_channels, net[0].kernel_size) == (3, (5, 5))


def test_the_random_state_is_not_touched():
    net = network(conv())
    state = torch.get_rng_state()
    ik.replace_with_interconv(net, where="0")
    ik.append_interconv(net)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_error_changes_nothing():
    net = network(conv())
    net[2].dilation = (1, 2, 3)
    before = list(net.children())
    with pytest.raises(TypeError, match="dilation"):
        ik.replace_with_interconv(net)
    assert list(net.children()) == before


@pytest.mark.drop_in("PyTorch", "surgery: deepcopy and pickle of the network")
@pytest.mark.parametrize("place", [ik.replace_with_interconv, ik.append_interconv])
def test_copies_and_pickles(place):
    net = network(conv())
    place(net)
    want = ik.SetModel(net)(X, SETS)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(ik.SetModel(other)(X, SETS), want)
        other.load_state_dict(net.state_dict())


def test_made_under_inference_mode_it_can_be_trained():
    net = network(conv())
    with torch.inference_mode():
        ik.replace_with_interconv(net)
    ik.SetModel(net)(X, SETS).sum().backward()
    assert net[0].weight.grad.abs().sum() > 0


# --- wrappers ---------------------------------------------------------------------------------------------------------


@pytest.mark.drop_in("PyTorch", "surgery: in DataParallel, AveragedModel, SetModel, torch.compile")
def test_inside_wrappers():
    for wrap in (nn.DataParallel, torch.optim.swa_utils.AveragedModel, ik.SetModel):
        wrapped = wrap(network(conv()))
        assert len(ik.replace_with_interconv(wrapped).changed) == 2
    net = network(conv())
    want = net(X)
    compiled = torch.compile(net, backend="eager")
    compiled(X)
    assert len(ik.replace_with_interconv(compiled).changed) == 2
    torch.testing.assert_close(ik.SetModel(compiled)(X, SETS), want, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        net[0].weight[:, 3:] = 1
    assert not torch.allclose(ik.SetModel(compiled)(X, SETS), want)  # it does not run the old layers


def test_a_moving_average_follows_after_the_same_surgery():
    net = network(conv())
    average = torch.optim.swa_utils.AveragedModel(net)
    for changed in (net, average):
        ik.replace_with_interconv(changed)
    torch.nn.init.ones_(net[0].weight)
    average.update_parameters(net)
    assert torch.equal(average.module[0].weight, net[0].weight)


@pytest.mark.drop_in("PyTorch", "surgery leaves a layer alone and says why: in DistributedDataParallel")
def test_distributed_wrappers_keep_their_parameters(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = nn.ModuleDict({"a": nn.parallel.DistributedDataParallel(network(conv())), "b": conv()})
        report = ik.replace_with_interconv(net)
    finally:
        torch.distributed.destroy_process_group()
    assert [change.name for change in report.changed] == ["b"]
    assert {name for name, _ in report.skipped} == {"a.module.0", "a.module.2"}
    assert "DistributedDataParallel, which keeps the old parameters" in report.skipped[0][1]


# --- the report -------------------------------------------------------------------------------------------------------


@pytest.mark.drop_in("PyTorch", "surgery: the report's parameters and param_groups for an optimizer")
def test_an_optimizer_made_before_holds_dead_parameters():
    net = network(conv())
    old = torch.optim.SGD(net.parameters(), lr=1)
    report = ik.replace_with_interconv(net)
    held = {p for group in old.param_groups for p in group["params"]}
    assert report.dead == len(held - set(net.parameters())) == 2
    assert report.parameters == [net[0].weight, net[2].weight]
    assert "holds 2 parameters that are no longer in the network, and lacks 2 new ones" in str(report)
    old.add_param_group({"params": report.parameters})  # no parameter twice, which torch refuses
    new, rest = report.param_groups(new_lr=0.1, old_lr=0.01)
    assert (new["lr"], rest["lr"]) == (0.1, 0.01)
    assert new["params"] == report.parameters
    assert rest["params"] == [net[0].bias, net[2].bias]
    torch.optim.AdamW(report.param_groups(1e-3, 1e-4))
    assert len(ik.replace_with_interconv(nn.Conv2d(1, 1, 1, bias=False)).param_groups(1, 1)) == 1
    assert "holds 0 parameters that are no longer in the network, and lacks 4 new ones" in str(
        ik.append_interconv(network(conv()))
    )
