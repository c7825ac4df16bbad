"""Simulated subjects with real anatomy: the paper's clinical-scan experiment (section 4.2) in miniature.

The anatomy is the MNI152 T1 template with its grey- and white-matter maps, which nilearn contains. A *subject* is a
coronal slice of it under a random smooth deformation; all subjects come from this one template. The *scans* of a
subject are its slice as clinical scanners might acquire it (thick and shifted slices, low resolution, another contrast,
a bias field, noise), aligned with each other. The tissues of the clean slice are the truth of all its scans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HEIGHT, WIDTH = 160, 192  # of the coronal slices in the paper, pixels of 1 mm
TISSUES = ("background", "grey matter", "white matter")
SLAB = 4  # neighbouring slices on each side of a subject's slice, for thick slices
# Coronal positions (voxels of the template). Held-out slices are more than two slabs away from those of training.
TRAIN_SLICES = (*range(60, 103), *range(133, 180))
HELD_OUT_SLICES = tuple(range(112, 124))


@dataclass(frozen=True)
class Template:
    """The coronal slices of the template, each float32 [slices,HEIGHT,WIDTH] in [0, 1], superior at the top.

    Attributes:
        t1: T1 intensity.
        grey: grey-matter probability.
        white: white-matter probability.
    """

    t1: Tensor
    grey: Tensor
    white: Tensor

    @classmethod
    def load(cls) -> Template:
        """Reads the template from nilearn."""
        from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

        volumes = []
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template):
            volume = np.asarray(load(resolution=1).dataobj, dtype=np.float32)  # [x, y, z]: right, anterior, superior
            left = (volume.shape[0] - WIDTH) // 2
            coronal = volume[left : left + WIDTH, :, :HEIGHT].transpose(1, 2, 0)[:, ::-1]
            volumes.append(torch.from_numpy(np.ascontiguousarray(coronal)))
        return cls(*volumes)


def simulate_subject(template: Template, position: int, scans: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Simulates one subject.

    Args:
        template: the anatomy.
        position: of the coronal slice.
        scans: the number of scans.
        random: of all random choices.

    Returns:
        Images, float32 [scans,1,HEIGHT,WIDTH], roughly in [0, 1]; and tissues, int64 [HEIGHT,WIDTH].
    """
    near = slice(position - SLAB, position + SLAB + 1)
    maps = torch.cat([template.t1[near], template.grey[position, None], template.white[position, None]])
    maps = F.grid_sample(maps[None], _deformation(random), align_corners=False)[0]
    slab, grey, white = maps[:-2], maps[-2], maps[-1]
    tissues = torch.stack([1 - grey - white, grey, white]).argmax(0)
    return torch.stack([_scan(slab, random) for _ in range(scans)]), tissues


def _deformation(random: torch.Generator) -> Tensor:
    """A sampling grid [1,H,W,2]: a random affine map with a smooth random displacement of a few pixels."""
    angle, shear = (_uniform(random, -0.12, 0.12) for _ in range(2))
    scale_x, scale_y = (_uniform(random, 1.0, 1.15) for _ in range(2))
    affine = torch.tensor(
        [[scale_x, angle + shear, _uniform(random, -0.05, 0.05)], [-angle, scale_y, _uniform(random, -0.05, 0.05)]]
    )
    grid = F.affine_grid(affine[None], [1, 1, HEIGHT, WIDTH], align_corners=False)
    pixels = torch.tensor([2 / WIDTH, 2 / HEIGHT])
    return grid + 4 * _smooth_field(random, (8, 10), channels=2)[None].permute(0, 2, 3, 1) * pixels


def _scan(slab: Tensor, random: torch.Generator) -> Tensor:
    """One degraded scan [1,H,W] of the slab's middle slice."""
    thickness = int(torch.randint(3, 6, (), generator=random))
    first = int(torch.randint(0, len(slab) - thickness + 1, (), generator=random))
    image = slab[first : first + thickness].mean(0)[None, None]  # a thick slice near the middle
    coarse = [round(size / _uniform(random, 2.0, 3.0)) for size in (HEIGHT, WIDTH)]
    image = F.interpolate(image, coarse, mode="area")
    image = image.clamp(min=0) ** _uniform(random, 0.6, 1.6)  # another contrast
    bias = F.interpolate(_smooth_field(random, (3, 4), channels=1)[None], coarse, mode="bilinear", align_corners=False)
    image = image * torch.exp(0.35 * bias)
    level = _uniform(random, 0.06, 0.18)
    noise = level * torch.randn((2, *image.shape), generator=random)
    image = torch.sqrt((image + noise[0]) ** 2 + noise[1] ** 2)  # magnitude images have Rician noise
    image = F.interpolate(image, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0]
    return image / torch.quantile(image, 0.99)


def _smooth_field(random: torch.Generator, knots: tuple[int, int], channels: int) -> Tensor:
    """Smooth noise [channels,H,W] of about unit variance, interpolated from a coarse grid."""
    coarse = torch.randn((1, channels, *knots), generator=random)
    return F.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic", align_corners=False)[0]


def _uniform(random: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=random))
