import pytest
import torch
from interconv_seg.networks import SimpleUNet

import interconv_kernels as ik

# Paper, appendix: features, parameters as counted with 1 input channel and 21 classes.
BASELINE = {
    24: 66_558,
    34: 127_938,
    48: 247_134,
    70: 512_850,
    100: 1_029_630,
    142: 2_052_498,
    200: 4_039_230,
    284: 8_097_438,
    400: 15_998_430,
}
INTERCONV = {
    16: 63_246,
    23: 122_781,
    33: 241_491,
    49: 513_795,
    70: 1_025_040,
    100: 2_058_330,
    141: 4_046_871,
    200: 8_076_630,
    282: 15_966_588,
}


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("features", BASELINE)
def test_baseline_counts_of_the_paper(features):
    with torch.device("meta"):
        assert count(SimpleUNet(1, 21, features)) == BASELINE[features]


@pytest.mark.parametrize("features", INTERCONV)
def test_interconv_counts_of_the_paper(features):
    with torch.device("meta"):
        net = SimpleUNet(1, 21, features)
        report = ik.replace_with_interconv(net, keep_outputs=False)
    assert report.parameters[1] == INTERCONV[features]
    assert len(report.changed) == 10


def test_sets_are_islands_through_the_whole_network():
    torch.manual_seed(0)
    net = ik.SetModel(ik.replace_with_interconv(SimpleUNet(1, 3, 8), keep_outputs=False).model)
    x = torch.randn(6, 1, 32, 48)
    y = net(x, [2, 3, 1])
    assert y.shape == (6, 3, 32, 48)
    spoiled = x.clone()
    spoiled[2:5] = torch.nan
    others = [0, 1, 5]
    assert torch.equal(net(spoiled, [2, 3, 1])[others], y[others])
    assert not torch.equal(net(x, [3, 2, 1])[others], y[others])


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(1, 1, 20, 32\).*multiples of 16"):
        SimpleUNet()(torch.zeros(1, 1, 20, 32))
