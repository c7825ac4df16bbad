"""The reference implementation against numbers worked out by hand, against numpy, and against the paper's algebra."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import make_case, oracle

import interconv_kernels as ik


def test_by_hand():
    """Two sets; one feature; kernel 1 with Wu = 2, Ws = 10, b = 1: y_i = 2 u_i + 10 mean + 1."""
    u = torch.tensor([1.0, 3.0, 5.0]).view(3, 1, 1, 1)
    weight, bias = torch.tensor([2.0, 10.0]).view(1, 2, 1, 1), torch.tensor([1.0])
    y = ik.reference.interconv(u, weight, bias, [2, 1])
    assert y.flatten().tolist() == [2 * 1 + 10 * 2 + 1, 2 * 3 + 10 * 2 + 1, 2 * 5 + 10 * 5 + 1]


def test_one_sample_sees_itself_twice():
    case = make_case([1, 1, 1])
    want = F.conv2d(torch.cat([case.u, case.u], dim=1), case.weight, case.bias, padding=1)
    torch.testing.assert_close(oracle(case), want)


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (2, 2)])
def test_in_numpy(stride, dilation, kernel):
    case = make_case([2, 0, 3, 1], kernel=kernel, size=(11, 10), stride=stride, padding=(1, 2), dilation=dilation)
    arrays = [x.numpy() for x in case.tensors]
    got = ik.reference.interconv2d_numpy(*arrays, case.lengths, stride=stride, padding=(1, 2), dilation=dilation)
    np.testing.assert_allclose(got, oracle(case).numpy(), rtol=0, atol=1e-12)


def test_layer_against_numpy():
    """Straight from the layer to plain numpy, past every line of torch in the oracle."""
    case = make_case([3, 1, 4], channels=7, out_channels=6)
    arrays = [x.numpy() for x in case.tensors]
    want = ik.reference.interconv2d_numpy(*arrays, case.lengths, padding=(1, 1))
    for algorithm in ("concat", "split", "centered"):
        got = ik.interconv2d(case.u, case.weight, case.bias, case.sets, algorithm=algorithm)
        np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-12)
