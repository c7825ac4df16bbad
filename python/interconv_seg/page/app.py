"""The routes of the page. Ids are small numbers that the server made: no path comes from the browser."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Receive
from starlette.websockets import WebSocket

from interconv_kernels._version import __version__

from .live import serve, session_json
from .workspace import Source, Workspace

STATIC = Path(__file__).parent / "static"
MAX_JSON = 64 * 1024
NAME_LENGTH = 80


class Page:
    """The page of a workspace.

    Args:
        workspace: what it shows.
    """

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._live: WebSocket | None = None
        self._exports = tempfile.mkdtemp(prefix="interconv-page-")
        self._recent: list[Source] = []

    def app(self) -> Starlette:
        """The application, without its guard."""
        routes = [
            Route("/", lambda request: FileResponse(STATIC / "index.html")),
            Route("/healthz", lambda request: JSONResponse({"version": __version__})),
            Route("/api/session", self.session),
            Route("/api/start", self.start),
            Route("/api/images/{image:int}", self.image),
            Route("/api/images/{image:int}/small", self.small),
            Route("/api/images/{image:int}/truth", self.truth),
            Route("/api/images", self.upload, methods=["POST"]),
            Route("/api/example/{name}", self.example, methods=["POST"]),
            Route("/api/recent/{number:int}", self.reopen, methods=["POST"]),
            Route("/api/export", self.export, methods=["POST"]),
            Route("/api/export/{number:int}", self.exported),
            WebSocketRoute("/api/live", self.live),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        handlers: Any = {HTTPException: _as_json, ValueError: _as_json}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """At the end: saves, and removes exports."""
        yield
        await self.workspace.flush()
        shutil.rmtree(self._exports, ignore_errors=True)

    # What there is

    async def session(self, request: Request) -> Response:
        """The open session."""
        return JSONResponse(session_json(self.workspace))

    async def start(self, request: Request) -> Response:
        """Examples and recent sessions."""
        from .examples import EXAMPLES

        recent = self.workspace.recent()
        self._recent = [source for source, _ in recent]
        return JSONResponse(
            {
                "version": __version__,
                "examples": [{"name": n, "title": e.title, "about": e.about} for n, e in EXAMPLES.items()],
                "recent": [{"title": source.title, "kind": source.kind, "opened": at} for source, at in recent],
                "limits": {"upload": self.workspace.limits.upload, "images": self.workspace.limits.images},
                "out": None if self.workspace.out is None else str(self.workspace.out),
            }
        )

    async def image(self, request: Request) -> Response:
        """The pixels of an image as stored."""
        picture = self._picture(request)
        plane = await asyncio.get_running_loop().run_in_executor(None, picture.plane)
        return self._plane(request, plane, picture.digest)

    async def small(self, request: Request) -> Response:
        """An image on the network's grid, for the overview."""
        picture = self._picture(request)
        return self._plane(request, (255 * picture.image).round().byte().numpy(), picture.digest + "s")

    async def truth(self, request: Request) -> Response:
        """The mask that comes with an image, on the network's grid."""
        picture = self._picture(request)
        if picture.truth is None:
            raise HTTPException(404, "this image has no mask")
        return self._plane(request, picture.truth.clamp(0, 255).byte().numpy()[None], picture.digest + "t")

    def _picture(self, request: Request) -> Any:
        session, number = self.workspace.session, request.path_params["image"]
        if session is None or number >= len(session.pictures):
            raise HTTPException(404, "no such image")
        return session.pictures[number]

    def _plane(self, request: Request, plane: Any, digest: str) -> Response:
        import numpy as np

        tag = f'"{digest}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        part = plane[:, :: max(1, plane.shape[1] // 256), :: max(1, plane.shape[2] // 256)]
        low, high = (float(value) for value in np.percentile(part, (0.5, 99.5)))
        about = {"shape": list(plane.shape), "bits": 8 * plane.itemsize, "window": [low, max(high, low + 1)]}
        little = plane.astype(plane.dtype.newbyteorder("<"), copy=False)
        headers = {"x-image": json.dumps(about), "etag": tag, "cache-control": "private, no-cache"}
        return Response(little.tobytes(), media_type="application/octet-stream", headers=headers)

    # Opening

    async def upload(self, request: Request) -> Response:
        """Opens uploaded files. They are kept in the store, so that the session can be reopened."""
        limits = self.workspace.limits
        if int(request.headers.get("content-length") or 0) > limits.upload:
            raise HTTPException(413, f"expected at most {limits.upload} bytes (--max-upload)")
        bounded = Request(request.scope, _bounded(request.receive, limits.upload))
        async with bounded.form(max_files=limits.images, max_fields=1, max_part_size=1024) as form:
            uploads = [file for file in form.getlist("files") if not isinstance(file, str)]
            if not uploads:
                raise HTTPException(400, "no files, expected images")
            folder = self.workspace.store / f"upload-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**6:06d}"
            names: list[str] = []
            for file in uploads:
                names.append(safe_file_name(file.filename or "image", names))
                target = folder / names[-1]
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as stream:
                    while block := await file.read(2**20):
                        stream.write(block)
        title = names[0] if len(names) == 1 else f"{len(names)} files"
        source = Source("files", title, tuple(str(folder / name) for name in names))
        try:
            return await self._open(source)
        except ValueError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    async def example(self, request: Request) -> Response:
        """Opens an example."""
        from .examples import EXAMPLES

        name = request.path_params["name"]
        if name not in EXAMPLES:
            raise HTTPException(404, f"no such example, expected one of {', '.join(EXAMPLES)}")
        return await self._open(Source("example", EXAMPLES[name].title, (name,)))

    async def reopen(self, request: Request) -> Response:
        """Opens one of the recent sessions."""
        number = request.path_params["number"]
        if number >= len(self._recent):
            raise HTTPException(404, "no such session")
        return await self._open(self._recent[number])

    async def _open(self, source: Source) -> Response:
        await self.workspace.open(source)
        return JSONResponse({"opened": self.workspace.opened, "refused": self.workspace.refused})

    # Export

    async def export(self, request: Request) -> Response:
        """Writes an export: into a new folder in --out, or as a zip to fetch."""
        from ..interactive.export import Choice, export

        session, workspace = self.workspace.session, self.workspace
        if session is None:
            raise HTTPException(409, "no images are open")
        body = await request.body() if int(request.headers.get("content-length") or 0) <= MAX_JSON else b""
        try:
            choice = Choice.from_json(json.loads(body))
        except RecursionError:
            raise HTTPException(400, "expected an export") from None
        name = f"export-{time.strftime('%Y%m%d-%H%M%S')}"
        number = 1 + sum(1 for _ in Path(self._exports).glob("*.zip"))

        def write() -> list[str]:
            if workspace.out is not None:
                folder = workspace.out / name
                return [str(file.relative_to(workspace.out)) for file in export(session, folder, choice)]
            with tempfile.TemporaryDirectory(dir=self._exports) as made:
                files = export(session, Path(made), choice)
                with zipfile.ZipFile(Path(self._exports) / f"{number}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                    for file in files:
                        archive.write(file, f"{name}/{file.relative_to(made)}")
                return [str(file.relative_to(made)) for file in files]

        files = await asyncio.get_running_loop().run_in_executor(workspace.worker, write)
        folder = None if workspace.out is None else str(workspace.out / name)
        return JSONResponse({"files": files, "folder": folder, "number": None if folder else number})

    async def exported(self, request: Request) -> Response:
        """A zip that was exported."""
        file = Path(self._exports) / f"{request.path_params['number']}.zip"
        if not file.is_file():
            raise HTTPException(404, "no such export")
        return FileResponse(file, filename=f"interconv-{time.strftime('%Y%m%d-%H%M%S')}.zip")

    async def live(self, websocket: WebSocket) -> None:
        """The one live connection."""
        await serve(self.workspace, websocket, self._replace)

    def _replace(self, websocket: WebSocket) -> WebSocket | None:
        older, self._live = self._live, websocket
        return older


def safe_file_name(name: str, taken: list[str]) -> str:
    """A name for an uploaded file: its last part, without signs that mean something to a file system.

    Args:
        name: as the browser says.
        taken: names that it must differ from.
    """
    last = re.split(r"[/\\]", name)[-1]
    safe = re.sub(r"[^\w.\- ]", "_", last, flags=re.ASCII).strip(". ")[-NAME_LENGTH:] or "image"
    stem, dot, ending = safe.partition(".")
    number, found = 2, safe
    while found.lower() in {other.lower() for other in taken}:
        found, number = f"{stem}-{number}{dot}{ending}", number + 1
    return found


def _bounded(receive: Receive, limit: int) -> Receive:
    total = 0

    async def bounded() -> Any:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            raise HTTPException(413, f"expected at most {limit} bytes (--max-upload)")
        return message

    return bounded


async def _as_json(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 400
    detail = error.detail if isinstance(error, HTTPException) else str(error)
    return JSONResponse({"error": detail[:500]}, status_code=status)
