"""The session that the page shows: opening images, and saving what is drawn."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interconv_kernels._files import write_text

if TYPE_CHECKING:
    from ..data import Scan
    from ..interactive import Model, Session

SAVE_DELAY = 0.8  # seconds: at most this much of the work is lost if the process is killed
SHOWN_RECENT = 8


@dataclass(frozen=True)
class Limits:
    """What is accepted.

    Attributes:
        upload: bytes.
        images: in a session.
    """

    upload: int = 512 * 2**20
    images: int = 2000


@dataclass(frozen=True)
class Source:
    """Where the images of a session come from.

    Attributes:
        kind: "files" or "example".
        title: for people.
        paths: of the files, or the name of the example.
    """

    kind: str
    title: str
    paths: tuple[str, ...]

    @property
    def id(self) -> str:
        """The same for the same images, safe as a name of a folder."""
        return hashlib.sha256(json.dumps([self.kind, *self.paths]).encode()).hexdigest()[:16]


@dataclass
class Workspace:
    """The open session, and the folder where sessions are kept.

    Attributes:
        store: has a folder for each session: session.json and about.json; uploaded images are in folders beside it.
        load_model: loads the network, or returns None.
        limits: what is accepted.
        out: where session.json is written instead, and exports go; None: exports are sent to the browser.
        axis: the anatomical plane of the slices of volumes.
    """

    store: Path
    load_model: Callable[[], Model | None]
    limits: Limits = field(default_factory=Limits)
    out: Path | None = None
    axis: str = "axial"

    session: Session | None = None
    source: Source | None = None
    opening: dict[str, Any] | None = None
    refused: list[dict[str, str]] = field(default_factory=list)
    notice: str = ""
    saved: float = 0.0
    opened: int = 0  # counts, so that the page notices another session

    def __post_init__(self) -> None:
        self.worker = ThreadPoolExecutor(1, "network")  # all that takes time, one after the other
        self.listeners: set[Callable[[], None]] = set()
        self._model: list[Model | None] = []
        self._timer: asyncio.TimerHandle | None = None

    # Opening

    async def open(self, source: Source) -> None:
        """Opens images, and the session of an earlier time if there is one.

        Args:
            source: of the images.

        Raises:
            ValueError: they cannot be used; the open session stays.
        """
        if self.opening is not None:
            raise ValueError("other images are being opened, expected one at a time")
        await self.flush()
        self.opening = {"title": source.title, "done": 0, "total": 0}
        self._tell()
        try:
            loop = asyncio.get_running_loop()
            session, refused, notice = await loop.run_in_executor(self.worker, self._read, source)
        finally:
            self.opening = None
            self._tell()
        self.session, self.source, self.refused, self.notice = session, source, refused, notice
        self.opened += 1
        self._tell()

    def _read(self, source: Source) -> tuple[Session, list[dict[str, str]], str]:
        from ..interactive import Session

        refused: list[dict[str, str]] = []
        scans, labels = self._scans(source, refused)
        if len(scans) > self.limits.images:
            raise ValueError(f"{len(scans)} images, expected at most {self.limits.images} (--max-images)")
        model = self.model()
        session = Session(
            scans,
            model,
            list(labels.values())[:1] or None,
            progress=self._progress,
            refused=lambda name, why: refused.append({"name": name, "why": why}),
        )
        session.label_names = labels
        file, notice = self._file(source), ""
        if file.exists():
            try:
                session.restore(file)
            except ValueError as error:
                kept = file.with_name(f"session-{time.strftime('%Y%m%d-%H%M%S')}.json")
                file.rename(kept)
                notice = f"The earlier session does not fit ({error}). It is kept as {kept.name}; this is a new one."
        self._note(source)
        return session, refused, notice

    def model(self) -> Model | None:
        """The network, loaded when it is first needed."""
        if not self._model:
            self._model.append(self.load_model())
        return self._model[0]

    def _scans(self, source: Source, refused: list[dict[str, str]]) -> tuple[list[Scan], Mapping[int, str]]:
        from .sources import example_scans, file_scans

        if source.kind == "example":
            return example_scans(source.paths[0])
        return file_scans([Path(path) for path in source.paths], refused, self.axis)

    def _progress(self, done: int, total: int) -> None:
        self.opening = {**(self.opening or {}), "done": done, "total": total}

    def _tell(self) -> None:
        for listener in list(self.listeners):
            listener()

    # Saving

    def changed(self) -> None:
        """Saves soon."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SAVE_DELAY, self._save)

    def _save(self) -> None:
        self._timer = None
        if self.session is None or self.source is None:
            return
        text, file = self.session.to_text(), self._file(self.source)

        def write() -> None:
            write_text(file, text)
            self.saved = time.time()

        asyncio.get_running_loop().run_in_executor(None, write)

    async def flush(self) -> None:
        """Saves now, if anything is not saved."""
        if self._timer is not None and self.session is not None and self.source is not None:
            self._timer.cancel()
            self._timer = None
            write_text(self._file(self.source), self.session.to_text())
            self.saved = time.time()

    def folder(self, source: Source) -> Path:
        """The folder of a session in the store.

        Args:
            source: of its images.
        """
        return self.store / source.id

    def _file(self, source: Source) -> Path:
        return (self.out or self.folder(source)) / "session.json"

    def _note(self, source: Source) -> None:
        """Remembers the session for `recent`."""
        about = {"kind": source.kind, "title": source.title, "paths": list(source.paths), "opened": time.time()}
        write_text(self.folder(source) / "about.json", json.dumps(about) + "\n")

    def recent(self) -> list[tuple[Source, float]]:
        """The sessions of earlier times with the time of their opening, the last first."""
        found = []
        for file in self.store.glob("*/about.json"):
            try:
                about = json.loads(file.read_text(encoding="utf-8"))
                source = Source(str(about["kind"]), str(about["title"]), tuple(map(str, about["paths"])))
                found.append((source, float(about["opened"])))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return sorted(found, key=lambda entry: -entry[1])[:SHOWN_RECENT]


def default_store() -> Path:
    """Where sessions are kept: $XDG_STATE_HOME/interconv/page, ~/.local/state if it is not set."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "interconv/page"


def source_of(paths: Sequence[Path]) -> Source:
    """The source of files or folders.

    Args:
        paths: at least one.
    """
    title = paths[0].resolve().name if len(paths) == 1 else f"{len(paths)} files"
    return Source("files", title, tuple(str(path.resolve()) for path in paths))
