"""Computes masks of the newest strokes, in one worker thread. Never a queue: what is older is skipped."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .wire import Plane, packed
from .workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor

    from ..interactive import Session


class Predictor:
    """Keeps the masks that one browser has up to date.

    Attributes:
        revision: of the newest request.
        visible: the images on the screen, which are computed first.

    Args:
        workspace: with an open session.
        send: takes binary messages with masks (`wire`) and JSON.
    """

    def __init__(self, workspace: Workspace, send: Callable[[bytes | dict[str, Any]], None]):
        self.workspace, self._send = workspace, send
        self.revision = 0
        self.visible: list[int] = []
        self._dirty: dict[int, float] = {}  # structure -> when it was asked for
        self._sent: dict[tuple[int, int], bytes] = {}  # (structure, image) -> the plane that the browser has
        self._wake = asyncio.Event()
        self._without_prompts: tuple[Session, Tensor] | None = None

    def request(self, structures: list[int]) -> None:
        """Asks for the masks of structures. The last one asked for is computed first.

        Args:
            structures: their numbers.
        """
        now = time.perf_counter()
        for structure in structures:
            self._dirty.pop(structure, None)
            self._dirty[structure] = now
        self._wake.set()

    def forget(self) -> None:
        """Starts anew: the browser has no masks."""
        self._dirty.clear()
        self._sent.clear()
        self.visible = []

    async def run(self) -> None:
        """Answers requests for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty and (session := self.workspace.session) is not None:
                structure = list(self._dirty)[-1]
                asked = self._dirty.pop(structure)
                if structure <= len(session.history.state.structures):
                    await self._predict(session, structure, asked)

    async def _predict(self, session: Session, structure: int, asked: float) -> None:
        loop = asyncio.get_running_loop()
        revision, key = self.revision, session.key(structure)
        found = session.kept(structure)
        network_ms = 0.0
        if found is None or found[0] != key:
            base = session.blank() if found is None else found[1].clone()
            results = session.engine.predict(session.prompts(structure), list(self.visible))
            done: set[int] = set()
            while True:
                start = time.perf_counter()
                part = await loop.run_in_executor(self.workspace.worker, next, results, None)
                if part is None:
                    break
                network_ms += 1000 * (time.perf_counter() - start)
                images, probabilities = part
                base[images] = probabilities
                done.update(images)
                if session is not self.workspace.session:
                    return
                if len(done) == len(session.pictures):
                    break
                self._send_planes(session, structure, base, images, revision, False, network_ms, asked)
                if session.key(structure) != key and done >= set(self.visible):
                    return  # the rest is computed with the newer strokes
            session.keep(structure, key, base)
        else:
            base = found[1]
        everything = list(range(len(session.pictures)))
        self._send_planes(session, structure, base, everything, revision, True, network_ms, asked)
        await self._compare(session, structure, base)

    def _send_planes(
        self,
        session: Session,
        structure: int,
        base: Tensor,
        images: list[int],
        revision: int,
        last: bool,
        network_ms: float,
        asked: float,
    ) -> None:
        from ..interactive.export import label_of
        from ..interactive.measures import dice, uncertainty
        from ..interactive.planes import quantized

        probabilities = session.locked(base, structure)
        values = quantized(probabilities)
        label = label_of(session, structure)
        changed = []
        for i in images:
            plane = values[i].tobytes()
            if self._sent.get((structure, i)) != plane:
                self._sent[structure, i] = plane
                changed.append(i)
        unsure = uncertainty(probabilities[changed]).tolist() if changed else []
        planes = []
        for i, u in zip(changed, unsure, strict=True):
            truth = session.pictures[i].truth
            score = math.nan if truth is None or label is None else dice(probabilities[i] > 0.5, truth, label)
            planes.append(Plane(i, u, score, self._sent[structure, i]))
        server_ms = 1000 * (time.perf_counter() - asked)
        size = (probabilities.shape[1], probabilities.shape[2])
        self._send(packed(revision, structure, size, planes, last, network_ms, server_ms))

    async def _compare(self, session: Session, structure: int, base: Tensor) -> None:
        """Sends the mean Dice of the images without prompts beside that of simple opponents, if nothing else waits."""
        from ..interactive.export import label_of
        from ..interactive.measures import compare

        label = label_of(session, structure)
        truths = {i: p.truth for i, p in enumerate(session.pictures) if p.truth is not None}
        prompted = {stroke.image for stroke in session.strokes(structure)}
        if label is None or not truths or not prompted or self._dirty:
            return
        loop = asyncio.get_running_loop()
        if self._without_prompts is None or self._without_prompts[0] is not session:
            engine = session.engine
            found = await loop.run_in_executor(self.workspace.worker, engine.predict_without_prompts)
            self._without_prompts = (session, found)
        probabilities = session.locked(base, structure)
        means = compare(probabilities, self._without_prompts[1], truths, label, prompted)
        scores = {name: None if math.isnan(value) else value for name, value in vars(means).items()}
        self._send({"type": "scores", "structure": structure, **scores})
