"""The label maps of synthetic tasks: blobs, cells, layers, tubes and nested objects, deformed for each subject.

All functions are batched: [T,M,...] for T tasks of M subjects. Coordinates are in [-1, 1], x first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .synthetic_random import Random

REGIONS = 7  # maximum number of regions, layers or classes of cells
WALL = 7  # the label of the walls between cells
OBJECTS = 8  # objects have labels from here on, two for each kind: the object and what is inside
KINDS = 4  # of objects in a task
COPIES = 6  # of an object
TUBE = OBJECTS + 2 * KINDS
LABELS = TUBE + 1
CELLS = 18


@dataclass(frozen=True)
class Geometry:
    """How the subjects of tasks differ from their templates.

    Attributes:
        grid: float32 [T,M,S,S,2], where each pixel of a subject lies in the template.
        strength: float32 [T] in [0, 1]: how much subjects differ, from nearly nothing to a lot.
    """

    grid: Tensor
    strength: Tensor

    def select(self, tasks: Tensor) -> Geometry:
        """The geometry of some tasks, by a mask or by indices."""
        return Geometry(self.grid[tasks], self.strength[tasks])


def random_geometry(random: Random, tasks: int, subjects: int, size: int) -> Geometry:
    """A smooth deformation and a small affine map for each subject.

    A quarter of the tasks differ by less than a pixel, as repeated scans, neighbouring slices or frames do.

    Args:
        random: the random numbers.
        tasks: T.
        subjects: M.
        size: S.
    """
    little = random.uniform((tasks,), 0.0, 0.03)
    strength = torch.where(random.chance((tasks,), 0.25), little, random.uniform((tasks,), 0.05, 1.0))
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    per_subject = (tasks, subjects)
    of_task = strength[:, None]
    angle = random.normal(per_subject, of_task * random.uniform((tasks, 1), 0.0, 0.4))[..., None, None]
    scales = random.normal((*per_subject, 2), (of_task * random.uniform((tasks, 1), 0.0, 0.2))[..., None]).exp()
    shifts = random.normal((*per_subject, 2), (of_task * random.uniform((tasks, 1), 0.0, 0.2))[..., None])
    spacing = random.uniform((tasks,), size / 6, size / 2.5)
    bent = random.smooth(2 * subjects, size, spacing).unflatten(1, (subjects, 2))
    bent = bent * (strength * random.uniform((tasks,), 0.03, 0.2))[:, None, None, None, None]
    x, y = x * scales[..., :1, None], y * scales[..., 1:, None]
    cosine, sine = angle.cos(), angle.sin()
    across = cosine * x - sine * y + shifts[..., :1, None] + bent[:, :, 0]
    down = sine * x + cosine * y + shifts[..., 1:, None] + bent[:, :, 1]
    return Geometry(torch.stack([across, down], dim=-1), strength)


def random_labels(random: Random, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Label maps: a background, divided or not, with objects and tubes in it.

    Args:
        random: the random numbers.
        geometry: of T tasks.

    Returns:
        Labels in 0 ... LABELS - 1, int64 [T,M,S,S]; and bool [T], whether label 0 is a background that is no target.
    """
    tasks = len(geometry.strength)
    kind = random.choice(tasks, (0.3, 0.35, 0.17, 0.18))
    labels = torch.zeros(geometry.grid.shape[:4], dtype=torch.int64)
    for value, draw in ((1, _regions), (2, _cells), (3, _layers)):
        chosen = (kind == value).nonzero()[:, 0]
        if len(chosen):
            labels[chosen] = draw(random, geometry.select(chosen))
    _draw_objects(random, geometry, labels, always=kind == 0)
    tubes = random.chance((tasks,), 0.15).nonzero()[:, 0]
    if len(tubes):
        chosen_geometry = geometry.select(tubes)
        field = _deformed(_fields(random, chosen_geometry, 1), chosen_geometry)[:, :, 0]
        inside = field.abs() < random.uniform((len(tubes), 1, 1, 1), 0.1, 0.35)
        labels[tubes] = labels[tubes].masked_fill(inside, TUBE)
    return labels, kind == 0


def _fields(random: Random, geometry: Geometry, count: int) -> Tensor:
    """Smooth fields of the template, [T,count,S,S]."""
    size = geometry.grid.shape[2]
    return random.smooth(count, size, random.uniform(geometry.strength.shape, size / 6, size / 2))


def _deformed(fields: Tensor, geometry: Geometry) -> Tensor:
    """Fields of the template [T,C,S,S] as each subject has them, [T,M,C,S,S]."""
    tasks, subjects, size = geometry.grid.shape[:3]
    grid = geometry.grid.reshape(tasks, subjects * size, size, 2)
    moved = F.grid_sample(fields, grid, padding_mode="reflection", align_corners=True)
    return moved.unflatten(2, (subjects, size)).transpose(1, 2)


def _regions(random: Random, geometry: Geometry) -> Tensor:
    """Blobs: where each of several smooth fields is the largest."""
    tasks, subjects, size = geometry.grid.shape[:3]
    fields = _deformed(_fields(random, geometry, REGIONS), geometry)
    spacing = random.uniform((tasks,), size / 6, size / 3)
    own = random.smooth(subjects * REGIONS, size, spacing).unflatten(1, (subjects, REGIONS))
    fields = fields + own * (geometry.strength * random.uniform((tasks,), 0.0, 0.6))[:, None, None, None, None]
    counts = random.integers((tasks, 1, 1, 1, 1), 2, REGIONS)
    absent = torch.arange(REGIONS)[:, None, None] >= counts
    return fields.masked_fill(absent, -math.inf).argmax(2)


def _cells(random: Random, geometry: Geometry) -> Tensor:
    """Cells of a Voronoi diagram in a few classes, in half of the tasks with walls between them."""
    tasks, subjects = geometry.grid.shape[:2]
    seeds = random.uniform((tasks, 1, CELLS, 2), -1.2, 1.2)
    apart = geometry.strength * random.uniform((tasks,), 0.0, 0.15)
    seeds = seeds + random.normal((tasks, subjects, CELLS, 2), apart[:, None, None, None])
    absent = torch.arange(CELLS) >= random.integers((tasks, 1, 1), 5, CELLS)
    points = geometry.grid.flatten(2, 3)
    squares = torch.cdist(points, seeds, compute_mode="use_mm_for_euclid_dist")
    nearest, cell = squares.masked_fill(absent[:, :, None], math.inf).topk(2, dim=-1, largest=False)
    classes = random.integers((tasks, CELLS), 0, 6) % random.integers((tasks, 1), 2, 5)
    labels = classes[:, None, None].expand(-1, *cell.shape[1:3], -1).gather(3, cell[..., :1])[..., 0]
    width = random.uniform((tasks, 1, 1), 0.05, 0.2) * random.chance((tasks, 1, 1), 0.5)
    walls = nearest[..., 1] - nearest[..., 0] < width
    return labels.masked_fill(walls, WALL).unflatten(2, geometry.grid.shape[2:4])


def _layers(random: Random, geometry: Geometry) -> Tensor:
    """Bent layers: a warped coordinate, cut at random places."""
    tasks = len(geometry.strength)
    angle = random.uniform((tasks, 1, 1, 1), 0.0, math.pi)
    along = geometry.grid[..., 0] * angle.cos() + geometry.grid[..., 1] * angle.sin()
    bent = _deformed(_fields(random, geometry, 1), geometry)[:, :, 0] * random.uniform((tasks, 1, 1, 1), 0.0, 0.35)
    cuts = random.uniform((tasks, REGIONS - 1, 1, 1, 1), -0.9, 0.9)
    absent = torch.arange(REGIONS - 1)[:, None, None, None] >= random.integers((tasks, 1, 1, 1, 1), 2, REGIONS - 1)
    place = along + bent
    labels = torch.zeros(place.shape, dtype=torch.int64)
    for cut in cuts.masked_fill(absent, math.inf).unbind(1):
        labels += place > cut
    return labels


def _draw_objects(random: Random, geometry: Geometry, labels: Tensor, always: Tensor) -> None:
    """Draws objects over the labels: one or several alike of a kind, some with another object inside."""
    tasks, subjects, size = geometry.grid.shape[:3]
    shape: dict[str, Tensor] = {}
    for kind in range(KINDS):
        present = random.chance((tasks,), (0.6, 0.45, 0.3, 0.2)[kind])
        if kind == 0:
            present |= always
        several = random.chance((tasks,), 0.35)
        new = {
            "copies": torch.where(several, random.integers((tasks,), 2, COPIES), 1),
            "scattered": several & random.chance((tasks,), 0.5),  # elsewhere in each subject, as cells are
            "nested": random.chance((tasks,), 0.5),
            "radius": torch.where(several, random.uniform((tasks,), 0.12, 0.35), random.uniform((tasks,), 0.2, 0.7)),
            "aspect": random.uniform((tasks,), -0.5, 0.5).exp(),
            "angle": random.uniform((tasks,), 0.0, math.pi),
            "bumps": random.uniform((tasks,), 0.0, 0.25),
            "inside": random.uniform((tasks,), 0.2, 0.6),
            "off": random.uniform((tasks,), 0.0, 0.3),
        }
        # Some kinds look like the kind before them, so that only place, size or the prompt tells which one is meant.
        alike = random.chance((tasks,), 0.3 if kind else 0.0)
        shape = {name: torch.where(alike, shape.get(name, value), value) for name, value in new.items()}
        bumps = random.smooth(subjects, size, random.uniform((tasks,), size / 8, size / 3))
        bumps = bumps * shape["bumps"][:, None, None, None]
        spread = torch.where(several, 0.55, 0.35)
        jitter = 0.25 * geometry.strength * random.uniform((tasks,))
        growth = (0.03 + 0.2 * random.uniform((tasks,))) * geometry.strength
        for copy in range(COPIES):
            chosen = (present & (copy < shape["copies"])).nonzero()[:, 0]
            if not len(chosen):
                continue
            part = {name: value[chosen, None] for name, value in shape.items()}  # [n,1]
            count = (len(chosen), subjects)
            centre = random.normal((len(chosen), 1, 2), spread[chosen, None, None])
            centre = centre + random.normal((*count, 2), jitter[chosen, None, None])
            free = random.normal((*count, 2), 0.55)
            centre = torch.where(part["scattered"][..., None], free, centre)
            radius = part["radius"] * random.normal(count, growth[chosen, None]).exp()
            angle = part["angle"] + random.normal(count, torch.where(part["scattered"], 2.0, 0.2))
            _draw_object(
                random, geometry.grid[chosen], labels, chosen, kind, part, centre, radius, angle, bumps[chosen]
            )


def _draw_object(
    random: Random,
    grid: Tensor,
    labels: Tensor,
    chosen: Tensor,
    kind: int,
    part: dict[str, Tensor],
    centre: Tensor,
    radius: Tensor,
    angle: Tensor,
    bumps: Tensor,
) -> None:
    """Draws one object, an ellipse with a bumpy border, for the chosen tasks."""
    cosine, sine = angle.cos()[..., None, None], angle.sin()[..., None, None]
    x, y = (grid - centre[:, :, None, None]).unbind(-1)
    along = (x * cosine + y * sine) * (part["aspect"] / radius)[..., None, None]
    across = (y * cosine - x * sine) / (part["aspect"] * radius)[..., None, None]
    outer = (along.square() + across.square()).sqrt() < 1 + bumps
    drawn = labels[chosen].masked_fill(outer, OBJECTS + 2 * kind)
    nested = part["nested"][:, 0].nonzero()[:, 0]
    if len(nested):
        off = part["off"][nested, :, None, None] * random.uniform((len(nested), 1, 1, 1), -1.0, 1.0)
        core = ((along[nested] - off).square() + across[nested].square()).sqrt() < (
            (1 - part["inside"][nested])[..., None, None] + bumps[nested]
        )
        drawn[nested] = drawn[nested].masked_fill(core & outer[nested], OBJECTS + 2 * kind + 1)
    labels[chosen] = drawn
