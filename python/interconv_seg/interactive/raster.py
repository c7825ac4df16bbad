"""Strokes as pixels: at the size of the stored image, as a prompt file has them, and on the network's grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .operations import Point, Size, Stroke

POSITIVE, NEGATIVE = 1, 2  # as in prompt files (`data.read_prompts`)


class Drawing:
    """The strokes of one structure on one image. A later stroke covers an earlier one of the other sign.

    Attributes:
        values: uint8 [h,w] of the stored image: 1 at positive prompts, 2 at negative ones, else 0.

    Args:
        stored: (h, w) of the image.
        grid: (H, W) of the network's input.
    """

    def __init__(self, stored: Size, grid: Size):
        self.values = np.zeros(stored, np.uint8)
        self._grid = grid
        self._drawn: list[tuple[str, int]] = []  # the strokes that are drawn, and how many of their points

    def draw(self, strokes: Sequence[Stroke]) -> None:
        """Makes `values` those of the strokes. Only what was added since the last call is drawn, if that is all.

        Args:
            strokes: all, in their order.
        """
        last = len(self._drawn) - 1
        grown = len(strokes) > last and all(
            stroke.id == id and (len(stroke.points) == count or (i == last and len(stroke.points) > count))
            for i, (stroke, (id, count)) in enumerate(zip(strokes, self._drawn, strict=False))
        )
        if not grown:
            self.values[:] = 0
            self._drawn = []
        for stroke in strokes[max(0, len(self._drawn) - 1) :]:
            done = dict(self._drawn).get(stroke.id, 0)
            if len(stroke.points) > done:
                self._line(stroke.points[max(0, done - 1) :], stroke.radius, POSITIVE if stroke.positive else NEGATIVE)
        self._drawn = [(stroke.id, len(stroke.points)) for stroke in strokes]

    def _line(self, points: Sequence[Point], radius: float, value: int) -> None:
        """Draws the pixels whose centre is within `radius`, on the grid, of the line, or half a stored pixel.

        So a line has no gaps, however thin it is. The pixel of each point is always drawn.
        """
        (h, w), (rows, columns) = self.values.shape, self._grid
        scale = np.array([columns / w, rows / h])  # grid pixels per stored pixel, (x, y)
        reach = np.maximum(radius / scale, 0.5)
        path = np.asarray(points, dtype=np.float64)
        starts = path[:-1] if len(path) > 1 else path
        ends = path[1:] if len(path) > 1 else path
        for a, b in zip(starts, ends, strict=True):
            low = np.maximum(np.floor(np.minimum(a, b) - reach), 0).astype(int)
            high = np.minimum(np.ceil(np.maximum(a, b) + reach), (w, h)).astype(int)
            if (low >= high).any():
                continue
            x = np.arange(low[0], high[0]) + 0.5
            y = np.arange(low[1], high[1])[:, None] + 0.5
            near = _squared_distance(x * scale[0], y * scale[1], a * scale, b * scale) <= radius**2
            near |= _squared_distance(x, y, a, b) <= 0.25
            self.values[low[1] : high[1], low[0] : high[0]][near] = value
        cells = np.floor(path).astype(int)
        cells = cells[((cells >= 0) & (cells < (w, h))).all(1)]
        self.values[cells[:, 1], cells[:, 0]] = value

    def prompts(self) -> Tensor | None:
        """The prompts on the network's grid: a pixel of it is prompted if it overlaps a prompted one.

        That is what `inference.segment` makes of a prompt file (`adaptive_max_pool2d`), computed where prompts are.

        Returns:
            float32 [2,H,W]; None without prompts.
        """
        filled = self.values > 0
        rows, columns = np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0))
        if len(rows) == 0:
            return None
        part = self.values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        signs = torch.from_numpy(np.stack([part == POSITIVE, part == NEGATIVE]).astype(np.float32))
        (h, w), (height, width) = self.values.shape, self._grid
        down = _overlap(rows[0], len(part), h, height)
        across = _overlap(columns[0], part.shape[1], w, width)
        return (torch.einsum("Hh,chw,Ww->cHW", down, signs, across) > 0).float()


def _overlap(first: int, count: int, stored: int, cells: int) -> Tensor:
    """float32 [cells,count]: 1 where a cell of the grid overlaps stored pixel `first`, `first` + 1, ..."""
    pixel, cell = torch.arange(first, first + count), torch.arange(cells)[:, None]
    return ((cell * stored < (pixel + 1) * cells) & ((cell + 1) * stored > pixel * cells)).float()


def _squared_distance(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[rows,columns], from the points (x, y) to the segment from a to b."""
    along = b - a
    length = float(along @ along)
    if length == 0:
        return np.asarray((x - a[0]) ** 2 + (y - a[1]) ** 2)
    t = np.clip(((x - a[0]) * along[0] + (y - a[1]) * along[1]) / length, 0, 1)
    return np.asarray((x - a[0] - t * along[0]) ** 2 + (y - a[1] - t * along[1]) ** 2)
