"""Sets of images to try the page on. All are simulated, so that they need no download and no licence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import Scan

SIZE = 128
CINE_FRAMES = 16
BRAINS = 8


@dataclass(frozen=True)
class Example:
    """A set of images.

    Attributes:
        title: for people.
        about: what it shows, one sentence.
        labels: the names of the values in the masks.
        make: returns images [N,H,W] in [0, 1] and masks [N,H,W].
    """

    title: str
    about: str
    labels: Mapping[int, str]
    make: Callable[[], tuple[np.ndarray, np.ndarray]]

    def scans(self) -> list[Scan]:
        """The images."""
        images, masks = self.make()
        width = len(str(len(images)))
        return [
            _scan(f"{self.title.split()[0].lower()} {i + 1:0{width}d}", np.round(255 * image).astype(np.uint8), mask)
            for i, (image, mask) in enumerate(zip(images, masks, strict=True))
        ]


def cine() -> tuple[np.ndarray, np.ndarray]:
    """A simulated short-axis heart through one beat: cavity (1), wall (2), right ventricle (3), in a chest."""
    random = np.random.default_rng(0)
    images, masks = [], []
    for frame in range(CINE_FRAMES):
        beat = (1 - np.cos(2 * np.pi * frame / CINE_FRAMES)) / 2  # 0 relaxed, 1 contracted
        x0, y0 = 66 + 2 * np.sin(2 * np.pi * frame / CINE_FRAMES), 64 + 2 * beat
        y, x = np.mgrid[:SIZE, :SIZE] + 0.5
        angle = np.arctan2(y - y0, x - x0)
        distance = np.hypot(x - x0, 1.06 * (y - y0)) / (1 + 0.05 * np.cos(2 * angle + 0.4) + 0.03 * np.cos(3 * angle))
        inner = 21 - 9 * beat
        outer = np.sqrt(30**2 - 21**2 + inner**2) + 1  # the wall keeps its area
        right = np.hypot((x - x0 + 34) / (23 - 6 * beat), (y - y0 + 3) / (29 - 5 * beat)) < 1
        mask = np.select([distance < inner, distance < outer, right], [1, 2, 3], 0)
        chest = np.hypot((x - 64) / 62, (y - 66) / 54)
        image = np.select([chest > 1, chest > 0.93], [0.03, 0.75], 0.2)
        image = np.where(np.hypot((x - 104) / 20, (y - 44) / 30) < 1, 0.07, image)  # a lung
        image = np.where(np.hypot((x - 30) / 24, (y - 106) / 15) < 1, 0.42, image)  # the liver
        image = np.select([mask == 1, mask == 2, mask == 3], [0.8, 0.33, 0.72], image)
        papillary = np.hypot(x - x0 - 8 + 3 * beat, y - y0 - 9 + 4 * beat) < 2.6
        image = np.where(papillary & (mask == 1), 0.4, image)
        bias = 1 + 0.25 * (x - 64) / 64 + 0.15 * (y - 64) / 64
        image = _blurred(image) * bias + 0.05 * random.standard_normal((SIZE, SIZE))
        images.append(image.clip(0, 1))
        masks.append(mask)
    return np.stack(images), np.stack(masks)


def brain() -> tuple[np.ndarray, np.ndarray]:
    """Eight simulated scans of one subject: one truth."""
    import torch

    from ..anatomy import HELD_OUT_SLICES, Template, simulate_subject

    images, tissues = simulate_subject(Template.load(), HELD_OUT_SLICES[4], BRAINS, torch.Generator().manual_seed(0))
    return images[:, 0].clamp(0, 1).numpy(), np.repeat(tissues[None].numpy(), BRAINS, axis=0)


def subjects() -> tuple[np.ndarray, np.ndarray]:
    """One simulated scan of each of eight subjects, at other positions: every truth differs."""
    import torch

    from ..anatomy import HELD_OUT_SLICES, Template, simulate_subject

    template, random = Template.load(), torch.Generator().manual_seed(0)
    found = [simulate_subject(template, HELD_OUT_SLICES[i], 1, random) for i in range(BRAINS)]
    return np.stack([scan[0, 0].clamp(0, 1).numpy() for scan, _ in found]), np.stack([t.numpy() for _, t in found])


EXAMPLES = {
    "cine": Example(
        "Frames of a beating heart",
        "16 simulated short-axis frames of one beat; cavity, wall and right ventricle change from frame to frame.",
        {1: "cavity", 2: "wall", 3: "right ventricle"},
        cine,
    ),
    "subjects": Example(
        "Brains of 8 subjects",
        "One simulated scan each (MNI152, deformed), so every image has a truth of its own.",
        {2: "white matter", 1: "grey matter"},
        subjects,
    ),
    "brain": Example(
        "Scans of one brain",
        "8 simulated clinical scans of one subject: other contrast, noise and thickness, the same anatomy.",
        {2: "white matter", 1: "grey matter"},
        brain,
    ),
}


def _scan(name: str, image: np.ndarray, mask: np.ndarray) -> Scan:
    file = Path(f"{name}.png")  # outputs are named by it
    return Scan(name, None, name, "example", (file,), (lambda: image[None],), lambda: mask.astype(np.int16))


def _blurred(image: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        image = (np.roll(image, 1, axis) + 2 * image + np.roll(image, -1, axis)) / 4
    return image
