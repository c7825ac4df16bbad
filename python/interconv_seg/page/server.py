"""Serves the page with uvicorn."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .app import Page
from .guard import Guard, is_loopback
from .live import MAX_MESSAGE
from .workspace import Source, Workspace


@dataclass(frozen=True)
class Address:
    """Where the page is served.

    Attributes:
        host: the address to bind to.
        port: 0: a free one.
        allow_remote: whether `host` may be reachable from other machines.
    """

    host: str = "127.0.0.1"
    port: int = 0
    allow_remote: bool = False

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.allow_remote:
            raise ValueError(
                f"--host {self.host}: others could reach the page there; expected --allow-remote too, or better the"
                " default and an SSH tunnel (ssh -L PORT:127.0.0.1:PORT)"
            )


def kept_token(store: Path) -> str:
    """The token of a page with a fixed port: the same after a restart, so that an open page connects again.

    Args:
        store: has the file, which only its owner can read.
    """
    file = store / "token"
    store.mkdir(parents=True, exist_ok=True)
    with (
        suppress(FileExistsError),
        os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as stream,
    ):
        stream.write(secrets.token_urlsafe(32))
    return file.read_text()


def run(
    workspace: Workspace, source: Source | None, address: Address, browser: bool, say: Callable[[str], None] = print
) -> None:
    """Serves the page until Ctrl-C.

    Args:
        workspace: what the page shows.
        source: opened at once; None: the page asks.
        address: where.
        browser: whether to open it in a browser.
        say: prints lines for the user.

    Raises:
        OSError: the address cannot be bound.
    """
    import uvicorn

    listener = socket.create_server(
        (address.host, address.port), family=socket.AF_INET6 if ":" in address.host else socket.AF_INET
    )
    port = listener.getsockname()[1]
    token = kept_token(workspace.store) if address.port else secrets.token_urlsafe(32)
    shown = f"[{address.host}]" if ":" in address.host else address.host
    url = f"http://{shown}:{port}/?token={token}"
    guarded = Guard(Page(workspace).app(), token, port, address.host)
    config = uvicorn.Config(
        guarded,
        log_level="warning",
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)

    async def serve() -> None:
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        say(f"interconv page: {url}")
        if not is_loopback(address.host):
            say(f"Everyone who can reach {shown}:{port} and knows this address can see and change the session.")
        say("Nothing leaves this machine. Ctrl-C ends it.")
        if browser:
            asyncio.get_running_loop().run_in_executor(None, webbrowser.open, url)
        if source is not None:
            try:
                await workspace.open(source)
                count = len(workspace.session.pictures) if workspace.session else 0
                say(f"{count} images, {len(workspace.refused)} refused.")
            except ValueError as error:
                workspace.notice = str(error)
                say(f"{source.title}: {error}")
        await serving

    asyncio.run(serve())
