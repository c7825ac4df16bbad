"""What the tests of the page share."""

import torch
from interconv_seg.interactive import Model


class Follower:
    """A test double for a network: a pixel is inside if its grey value is near that of the positive prompts of its set.

    It carries the prompts of an image to the others of its set, by grey value alone. It says nothing about quality.
    """

    def __call__(self, inputs, sets):
        out, start = [], 0
        for length in sets.lengths.tolist() if torch.is_tensor(sets.lengths) else sets.lengths:
            part = inputs[start : start + length]
            start += length
            image, positive, negative = part[:, 0], part[:, -2], part[:, -1]
            inside = (image * positive).sum() / positive.sum().clamp(min=1)
            near = 0.15 - (image - inside).abs()
            if negative.sum() > 0:
                outside = (image * negative).sum() / negative.sum()
                near = torch.minimum(near, (image - outside).abs() - (image - inside).abs())
            painted = 40 * near if positive.sum() > 0 else torch.full_like(image, -9.0)
            out.append(painted + 9 * positive - 9 * negative)
        return torch.cat(out)[:, None]


def follower(max_set=8):
    return Model("test double", Follower(), (128, 128), 1, max_set)
