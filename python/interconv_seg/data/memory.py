"""Tensors in memory up to a bound, and beyond it in temporary files that are mapped into memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .scans import Sample

BLOCK = 2**26  # bytes that are allocated at once, so that no memory is lost between tensors
ALIGNMENT = 64
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a Linux container
UNKNOWN_MEMORY = 2**33


class TensorStore:
    """Keeps tensors for as long as they are used, the first ones in memory and the others in temporary files.

    The files are mapped into memory: the operating system reads what is used, and drops it when it needs the memory.
    They have no names, so that nothing remains of them however the process ends (on Windows: unless it is killed).

    Args:
        limit: bytes in memory. Default: half of the memory of the machine, or of its container.
        folder: of the files, created if needed. Default: that of temporary files.
    """

    def __init__(self, limit: int | None = None, folder: Path | None = None):
        self.limit, self.folder = usable_memory() // 2 if limit is None else limit, folder
        self.in_memory, self.in_files = 0, 0
        self._block, self._used = torch.empty(0, dtype=torch.uint8), 0
        self._file: mmap.mmap | None = None

    def keep(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor that the store holds, bit for bit.

        Args:
            tensor: on the CPU.

        Raises:
            OSError: the disk is full.
        """
        if self._used + tensor.nbytes > len(self._block):
            self._allocate(max(BLOCK, tensor.nbytes))
        kept = self._block[self._used : self._used + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        self._used += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        return kept.copy_(tensor)

    def keep_sample(self, sample: Sample) -> Sample:
        """The sample, with image and mask as `keep` gives them.

        Args:
            sample: the sample.
        """
        mask = None if sample.mask is None else self.keep(sample.mask)
        return replace(sample, image=self.keep(sample.image), mask=mask)

    def _allocate(self, size: int) -> None:
        self._used = 0
        if self.in_memory + size <= self.limit:
            self._block = torch.empty(size, dtype=torch.uint8)
            self.in_memory += size
            return
        if self._file is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._file.madvise(mmap.MADV_DONTNEED)  # it is full: what was written need not stay in memory
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            file.write(bytes(size))  # a full disk is an error here, and would end the process later
            file.flush()
            self._file = mmap.mmap(file.fileno(), size)
        self._block = torch.frombuffer(self._file, dtype=torch.uint8)
        self.in_files += size


def usable_memory() -> int:
    """The memory of the machine, or of the container, in bytes."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        found = UNKNOWN_MEMORY
    try:
        return min(found, int(MEMORY_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return found
