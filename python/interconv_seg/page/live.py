"""The WebSocket: operations up as JSON, masks down (`wire`), and what changed down as JSON.

begin, extend, end, cancel    draw a stroke, so that masks follow while it is drawn
stroke, erase, accept, ...    operations (`interactive.operations`), with an id, so that they can be sent again
undo, redo, view, ping        view: the images on the screen

Every message has a `rev`, which answers repeat. A wrong message is answered with {"type": "error"} and changes nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from ..interactive.checks import integer, text
from ..interactive.operations import Stroke
from .predictor import Predictor
from .workspace import Workspace

if TYPE_CHECKING:
    from ..interactive import Session

MAX_MESSAGE = 64 * 1024  # bytes
MAX_MESSAGE_POINTS = 4096
MAX_REVISION = 2**32 - 1
CLOSED_REPLACED = 4001
CLOSED_MESSAGE = 4008


class Live:
    """One connection.

    Args:
        workspace: with the session.
        websocket: accepted.
    """

    def __init__(self, workspace: Workspace, websocket: WebSocket):
        self.workspace, self.websocket = workspace, websocket
        self._outbox: asyncio.Queue[bytes | dict[str, Any]] = asyncio.Queue()
        self.predictor = Predictor(workspace, self._outbox.put_nowait)
        self._opened = workspace.opened

    async def run(self) -> None:
        """Serves the connection until it ends."""
        self.workspace.listeners.add(self._status)
        tasks = [asyncio.ensure_future(job()) for job in (self.predictor.run, self._write)]
        try:
            self._status()
            if self.workspace.session is not None:
                self._send_all(self.workspace.session)
            await self._read()
        except WebSocketDisconnect:
            pass
        finally:
            self.workspace.listeners.discard(self._status)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._commit()

    async def _write(self) -> None:
        while True:
            message = await self._outbox.get()
            if isinstance(message, bytes):
                await self.websocket.send_bytes(message)
            else:
                await self.websocket.send_text(json.dumps(message))

    async def _read(self) -> None:
        while True:
            event = await self.websocket.receive()
            if event["type"] == "websocket.disconnect":
                return
            received = event.get("text")
            if received is None or len(received) > MAX_MESSAGE:
                await self.websocket.close(CLOSED_MESSAGE, f"expected text of at most {MAX_MESSAGE} characters")
                return
            message: Any = None
            try:
                message = json.loads(received)
                await self._handle(message)
            except (ValueError, RecursionError) as error:
                told = message if isinstance(message, dict) else {}
                id, rev = told.get("id"), told.get("rev")
                reply: dict[str, Any] = {"type": "error", "error": str(error)[:300]}
                reply["id"] = id if isinstance(id, str) and len(id) <= 80 else None
                reply["rev"] = rev if type(rev) is int and 0 <= rev <= MAX_REVISION else None
                self._outbox.put_nowait(reply)

    async def _handle(self, message: Any) -> None:
        """Performs one message.

        Raises:
            ValueError: it is wrong, and nothing was done.
        """
        if not isinstance(message, dict):
            raise ValueError(f"a message is a {type(message).__name__}, expected an object")
        content = dict(message)
        op, revision = content.get("op"), integer(content.pop("rev", None), "rev", 0, MAX_REVISION)
        if op == "ping":
            self._outbox.put_nowait({"type": "pong", "rev": revision})
            return
        session = self.workspace.session
        if session is None:
            raise ValueError("no images are open")
        if op == "view":
            images = content.get("images")
            if not isinstance(images, list) or len(images) > len(session.pictures):
                raise ValueError(f"images of view are {images!r:.60}, expected a list")
            self.predictor.visible = [integer(i, "an image", 0, len(session.pictures) - 1) for i in images]
            return
        before = _snapshot(session)
        self._check_points(content)
        if op in ("begin", "extend", "cancel", "end"):
            self._draw(session, op, content)
        elif op in ("undo", "redo"):
            self._commit()
            getattr(session.history, op)(text(content.get("id"), "id"))
        elif op == "accept":  # it may have to compute masks
            await asyncio.get_running_loop().run_in_executor(self.workspace.worker, session.do, content)
        else:
            session.do(content)
        self.predictor.revision = max(self.predictor.revision, revision)
        self._after(session, before, revision, content.get("id"))

    def _draw(self, session: Session, op: str, content: dict[str, Any]) -> None:
        history, pending = session.history, session.pending
        if op == "begin":
            parsed = history.parse({**content, "op": "stroke"})
            history.check(parsed)
            self._commit()
            session.pending = Stroke(parsed.id, **parsed.values)
            return
        if pending is None or content.get("id") != pending.id:
            raise ValueError(f"{op} of stroke {content.get('id')!r:.60}, expected the one that was begun")
        if op == "cancel":
            session.pending = None
            return
        if op == "extend" or content.get("points"):
            added = {"op": "stroke", "id": pending.id, "image": pending.image, "structure": pending.structure}
            added |= {"positive": pending.positive, "radius": pending.radius}
            points = history.parse({**added, "points": content.get("points")}).values["points"]
            whole = history.parse({**added, "points": [*pending.points, *points]})
            session.pending = Stroke(pending.id, **whole.values)
        if op == "end":
            self._commit()

    def _commit(self) -> None:
        """Makes the stroke that is being drawn an operation."""
        session = self.workspace.session
        if session is not None and session.pending is not None:
            pending, session.pending = session.pending, None
            session.do({"op": "stroke", **vars(pending)})
            self.workspace.changed()

    def _check_points(self, content: dict[str, Any]) -> None:
        points = content.get("points")
        if isinstance(points, list) and len(points) > MAX_MESSAGE_POINTS:
            raise ValueError(f"{len(points)} points in a message, expected at most {MAX_MESSAGE_POINTS}")

    # Down

    def _after(self, session: Session, before: dict[str, Any], revision: int, id: Any) -> None:
        """Tells the browser what changed, asks for masks, and saves soon."""
        now = _snapshot(session)
        changed = [s for s, key in now["keys"].items() if before["keys"].get(s) != key]
        if before["accepted"] != now["accepted"]:
            changed = list(now["keys"])
        if changed:
            self.predictor.request(changed)
        reply: dict[str, Any] = {"type": "changed", "rev": revision, "id": id, **_counts(session)}
        images = {i for i in {*before["strokes"], *now["strokes"]} if before["strokes"].get(i) != now["strokes"].get(i)}
        if images:
            strokes = session.history.state.strokes.values()
            reply["strokes"] = {i: [_shown(s) for s in strokes if s.image == i] for i in sorted(images)}
        if before["accepted"] != now["accepted"]:
            reply["accepted"] = now["accepted"]
        if before["structures"] != now["structures"]:
            reply["structures"] = now["structures"]
        self._outbox.put_nowait(reply)
        if now != before:
            self.workspace.changed()

    def _status(self) -> None:
        """Tells that images are being opened, or are open."""
        workspace = self.workspace
        self._outbox.put_nowait({"type": "status", "opened": workspace.opened, "opening": workspace.opening})
        if workspace.session is not None and workspace.opened != self._opened:
            self._opened = workspace.opened
            self.predictor.forget()
            self._send_all(workspace.session)

    def _send_all(self, session: Session) -> None:
        self._outbox.put_nowait({"type": "session", **session_json(self.workspace)})
        self.predictor.request(list(range(len(session.history.state.structures), 0, -1)))


def session_json(workspace: Workspace) -> dict[str, Any]:
    """What the page needs to know of the open session.

    Args:
        workspace: with the session.
    """
    session = workspace.session
    if session is None or workspace.source is None:
        return {"images": None, "opened": workspace.opened, "opening": workspace.opening}
    images = [
        {"name": p.name, "size": list(p.size), "truth": p.truth is not None, "digest": p.digest}
        for p in session.pictures
    ]
    state = session.history.state
    strokes: dict[int, list[dict[str, Any]]] = {}
    for stroke in state.strokes.values():
        strokes.setdefault(stroke.image, []).append(_shown(stroke))
    return {
        "opened": workspace.opened,
        "title": workspace.source.title,
        "images": images,
        "grid": list(session.grid),
        "model": None if session.model is None else session.model.name,
        "together": 0 if session.model is None else session.model.max_set,
        "labels": dict(session.label_names),
        "structures": state.structures,
        "strokes": strokes,
        "accepted": sorted(state.accepted),
        "refused": workspace.refused,
        "notice": workspace.notice,
        **_counts(session),
    }


def _counts(session: Session) -> dict[str, Any]:
    history = session.history
    return {"undo": history.done, "redo": len(history.operations) - history.done}


def _shown(stroke: Stroke) -> dict[str, Any]:
    return {name: value for name, value in vars(stroke).items() if name != "image"}


def _snapshot(session: Session) -> dict[str, Any]:
    """What can change, to compare."""
    state = session.history.state
    strokes: dict[int, list[str]] = {}
    for stroke in state.strokes.values():
        strokes.setdefault(stroke.image, []).append(stroke.id)
    return {
        "strokes": strokes,
        "accepted": sorted(state.accepted),
        "structures": list(state.structures),
        "keys": {s: session.key(s) for s in range(1, len(state.structures) + 1)},
        "done": session.history.done,
    }


async def serve(workspace: Workspace, websocket: WebSocket, replace: Callable[[WebSocket], Any]) -> None:
    """Serves a connection, the only one: an older one is closed.

    Args:
        workspace: with the session.
        websocket: not yet accepted.
        replace: remembers the new connection and returns the older one, or None.
    """
    await websocket.accept()
    older = replace(websocket)
    if older is not None:
        with suppress(RuntimeError, WebSocketDisconnect):  # it has gone
            await older.close(CLOSED_REPLACED, "the page was opened in another window")
    await Live(workspace, websocket).run()
