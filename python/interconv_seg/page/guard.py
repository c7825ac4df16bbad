"""Who may talk to the page: this browser, with the token, at the bound address."""

from __future__ import annotations

import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
CLOSED_FORBIDDEN = 4403


class Guard:
    """ASGI middleware: checks Host, Origin and token, and adds headers that forbid other origins.

    A request must name our own host (else 421: DNS rebinding), come from our own page if it changes something or is a
    WebSocket (else 403), and carry the token (else 403), as a cookie or, for the first request, in the URL `/?token=`.

    Args:
        app: the page.
        token: the secret.
        port: that the page is served on.
        host: that it is bound to.
    """

    def __init__(self, app: ASGIApp, token: str, port: int, host: str = "127.0.0.1"):
        self.app, self.token = app, token
        self.cookie = f"interconv_page_{port}"
        names = {"localhost", *([f"[{host}]"] if ":" in host else [host])}
        self.hosts = {f"{name}:{port}" for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        status, reason = self.refusal(scope, headers)
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if status == 403 and scope["type"] == "http" and scope["path"] == "/" and self._is_token(given):
            answer = RedirectResponse("/", status_code=303, headers=SECURITY)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
            await answer(scope, receive, send)
        elif status and scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": CLOSED_FORBIDDEN, "reason": reason})
        elif status:
            await PlainTextResponse(reason, status_code=status, headers=SECURITY)(scope, receive, send)
        else:
            await self.app(scope, receive, _with_headers(send))

    def refusal(self, scope: Scope, headers: Headers) -> tuple[int, str]:
        """The status and the reason why a request is refused; (0, "") if it is not.

        Args:
            scope: of the request.
            headers: of the request.
        """
        if headers.getlist("host") != headers.getlist("host")[:1] or headers.get("host", "") not in self.hosts:
            return 421, "this page is only served at its own address"
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        origin = headers.get("origin")
        own = {f"http://{host}" for host in self.hosts}
        if (changes and origin not in own) or (origin is not None and origin not in own):
            return 403, "requests must come from the page itself"
        if not self._is_token(self._token_of(headers)):
            return 403, "open the address that `interconv page` printed: it holds the token"
        return 0, ""

    def _token_of(self, headers: Headers) -> str:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return ""
        return "" if morsel is None else morsel.value

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def is_loopback(host: str) -> bool:
    """Whether an address is only reachable from this machine.

    Args:
        host: a name or an address.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            known = {name.lower() for name, _ in message["headers"]}
            extra = [(k.encode(), v.encode()) for k, v in SECURITY.items() if k.encode() not in known]
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return wrapped
