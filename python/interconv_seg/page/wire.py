"""The binary message with masks.

Little-endian. Header: "ICM1", u32 revision, u16 structure, u16 count, u16 H, u16 W, u8 encoding (0: u8 probabilities),
u8 flags (1: the last message of this revision), u16 zero, f32 milliseconds in the network, f32 milliseconds from the
request to this message. Then for each image: u32 index, f32 uncertainty, f32 Dice or NaN, u32 bytes, the plane [H,W].
A value of 128 or more is inside.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

MAGIC = b"ICM1"
HEADER = struct.Struct("<4sIHHHHBBHff")
IMAGE = struct.Struct("<IffI")
LAST = 1


@dataclass(frozen=True)
class Plane:
    """The mask of one image.

    Attributes:
        image: its index.
        uncertainty: of the mask.
        dice: NaN without a truth.
        values: uint8 [H,W].
    """

    image: int
    uncertainty: float
    dice: float
    values: bytes


def packed(
    revision: int,
    structure: int,
    size: tuple[int, int],
    planes: Sequence[Plane],
    last: bool,
    network_ms: float,
    server_ms: float,
) -> bytes:
    """A message.

    Args:
        revision: of the request that it answers.
        structure: the number of the structure.
        size: (H, W) of the planes.
        planes: those that changed.
        last: whether all images of this revision have been sent.
        network_ms: as above.
        server_ms: as above.
    """
    flags = LAST if last else 0
    parts = [HEADER.pack(MAGIC, revision, structure, len(planes), *size, 0, flags, 0, network_ms, server_ms)]
    for plane in planes:
        parts += [IMAGE.pack(plane.image, plane.uncertainty, plane.dice, len(plane.values)), plane.values]
    return b"".join(parts)
