import numpy as np
import pytest
import torch

import interconv_kernels as ik

A, B = torch.randn(3, 1, 4, 4), torch.randn(1, 1, 4, 4)


@pytest.mark.drop_in("PyTorch", "ik.collate: tensors")
def test_tensors():
    u, sets = ik.collate([A, B])
    assert torch.equal(u, torch.cat([A, B]))
    assert sets == ik.Sets.from_lengths([3, 1])


@pytest.mark.drop_in("PyTorch", "ik.collate: tuples")
def test_tuples_keep_their_order():
    images, masks, ages, sets = ik.collate([(A, A[:, 0].numpy() > 0, 30), [B, B[:, 0].numpy() > 0, 40]])
    assert torch.equal(images, torch.cat([A, B]))
    assert torch.equal(masks, images[:, 0] > 0)
    assert ages.tolist() == [30, 40]
    assert sets.lengths == (3, 1)


@pytest.mark.drop_in("PyTorch", "ik.collate: dicts, nested, with lists and values of a set")
def test_mappings():
    def item(images, subject, names):
        weight = torch.tensor(float(len(images)))
        return {
            "image": images,
            "meta": {"subject": subject, "scan": names, "weight": weight},
            "row": np.arange(len(names)),
        }

    batch = ik.collate([item(A, "s1", ["t1", "t2", "pd"]), item(B, "s2", ["t1"]), item(A[:0], "s3", [])])
    assert torch.equal(batch["image"], torch.cat([A, B]))
    assert batch["meta"]["subject"] == ["s1", "s2", "s3"]
    assert batch["meta"]["scan"] == ["t1", "t2", "pd", "t1"]
    assert batch["meta"]["weight"].tolist() == [3, 1, 0]
    assert batch["row"].tolist() == [0, 1, 2, 0]
    assert batch["sets"].lengths == (3, 1, 0)


class Named(torch.Tensor):
    """A tensor with metadata, which results of torch's functions take from their first argument, as MONAI's does."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs)
        first = args[0][0] if isinstance(args[0], (list, tuple)) else args[0]
        if isinstance(result, cls):
            result.meta = first.meta
        return result


def named(tensor, name):
    tensor = tensor.clone().as_subclass(Named)
    tensor.meta = name
    return tensor


@pytest.mark.drop_in("PyTorch", "ik.collate: subclasses of Tensor become plain tensors")
def test_metadata_of_the_first_set_is_not_given_to_all():
    items = [{"image": named(x, str(b)), "weight": named(torch.tensor(1.0 + b), str(b))} for b, x in enumerate((A, B))]
    assert torch.cat([item["image"] for item in items]).meta == "0"  # what is not wanted
    batch = ik.collate(items)
    assert type(batch["image"]) is type(batch["weight"]) is torch.Tensor
    assert torch.equal(batch["image"], torch.cat([A, B]))
    assert batch["weight"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ([], ValueError, "no items: expected at least one"),
        ([3, 4], TypeError, r"items\[0\] is a int without a tensor \[K, ...\]"),
        ([A, torch.tensor(1.0)], TypeError, r"items\[1\] is a Tensor without"),
        ([A, B[..., :2]], ValueError, r"item has samples of .*\(1, 4, 2\).*expected one shape"),
        ([A, B.double()], ValueError, "float64.*expected one shape and dtype"),
        ([(A, A[:2]), (B, B)], ValueError, r"item\[1\] has \[2, 1\] entries in sets of \[3, 1\] samples"),
        (
            [{"x": A, "names": ["a"]}, {"x": B, "names": ["a"]}],
            ValueError,
            r"item\['names'\] has \[1, 1\] entries in sets of \[3, 1\] samples",
        ),
        ([{"x": A}, {"y": A}], ValueError, r"item has keys \['y'\] and \['x'\]: expected the same"),
        ([{"x": A, "sets": 1}], ValueError, 'a key "sets": expected none'),
        ([(A, 1), (B,)], ValueError, "items have 1 and 2 values: expected the same number"),
        ([A, {"x": A}], TypeError, "items are a mapping and a tensor: expected one kind"),
    ],
)
def test_errors(items, error, message):
    with pytest.raises(error, match=message):
        ik.collate(items)
