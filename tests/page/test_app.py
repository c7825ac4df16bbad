"""The routes, the guard and the live connection, without a browser."""

import io
import json
import random

import numpy as np
import pytest
from page_common import follower
from PIL import Image

pytest.importorskip("starlette", reason="the extra `page` is not installed")
from interconv_seg.page.app import Page, safe_file_name
from interconv_seg.page.guard import Guard
from interconv_seg.page.workspace import Limits, Workspace
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

ORIGIN = "http://127.0.0.1:80"
GOOD = {"host": "127.0.0.1:80", "origin": ORIGIN, "cookie": "interconv_page_80=secret"}


@pytest.fixture
def client(tmp_path):
    workspace = Workspace(tmp_path, follower, Limits(upload=2**20))
    with TestClient(Guard(Page(workspace).app(), "secret", 80), base_url=ORIGIN, headers=GOOD) as client:
        client.workspace = workspace
        yield client


@pytest.mark.parametrize("host", ["127.0.0.1:80", "localhost:80", "evil.example:80", "127.0.0.1:81", ""])
@pytest.mark.parametrize("origin", [ORIGIN, "http://evil.example", "null", None])
@pytest.mark.parametrize("cookie", ["interconv_page_80=secret", "interconv_page_80=wrong", None])
def test_only_our_own_page_with_the_token_is_answered(client, host, origin, cookie):
    given = {"host": host, "origin": origin, "cookie": cookie}
    client.headers = {name: value for name, value in given.items() if value is not None}
    right_host, right_cookie = host in ("127.0.0.1:80", "localhost:80"), cookie == "interconv_page_80=secret"
    get, post = client.get("/healthz"), client.post("/api/example/none")
    for answer, right_origin, passed in ((get, origin in (ORIGIN, None), 200), (post, origin == ORIGIN, 404)):
        expected = passed if right_host and right_origin and right_cookie else 403 if right_host else 421
        assert answer.status_code == expected
    if not (right_host and right_cookie and origin == ORIGIN):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/live"):
            pass


def test_the_token_becomes_a_strict_cookie(client):
    client.headers = {"host": "127.0.0.1:80"}
    answer = client.get("/?token=secret", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    client.cookies.clear()
    assert client.get("/?token=wrong").status_code == 403


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/api/images/0"])
def test_nothing_but_our_files_is_served(client, path):
    assert client.get(path).status_code == 404


def png(size=(20, 30)):
    stream = io.BytesIO()
    Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)).save(stream, "PNG")
    return stream.getvalue()


def test_uploads_are_opened_and_broken_ones_refused_by_name(client):
    files = [("files", ("../../a.png", png())), ("files", ("b.png", b"no")), ("files", ("c.nii", b"x" * 400))]
    answer = client.post("/api/images", files=files)
    assert answer.status_code == 200, answer.text
    assert {refused["name"] for refused in answer.json()["refused"]} == {"b", "c.nii"}
    assert [image["name"] for image in client.get("/api/session").json()["images"]] == ["a"]
    plane = client.get("/api/images/0")
    assert json.loads(plane.headers["x-image"])["shape"] == [1, 20, 30]
    assert plane.content == np.arange(600, dtype=np.uint8).tobytes()
    assert client.post("/api/images", files=[("files", ("d.png", bytes(2**20 + 1)))]).status_code == 413


def test_names_of_uploads_are_safe():
    names = []
    for name in ("../../etc/passwd", "C:\\x\\a.png", "a.png", "..", "", "a\x00b\n.png", "x" * 500 + ".png"):
        names.append(safe_file_name(name, names))
    assert len(set(names)) == len(names)
    assert all(n and "/" not in n and "\\" not in n and len(n) <= 90 and not n.startswith(".") for n in names)


def test_2000_malformed_messages_get_an_error_each_and_change_nothing(client):
    assert client.post("/api/example/cine").status_code == 200
    before = client.workspace.session.to_text()
    good = {"op": "stroke", "id": "a", "rev": 1, "image": 0, "structure": 1, "positive": True, "radius": 1.0}
    good["points"] = [[1, 2], [3, 4]]
    wrong = [None, -1, 10**400, 1e300, "x", "", [], {}, True, [[1]], [[None, 2]], "\x00", [1, 2], "a" * 200, 99]
    draw = random.Random(0)
    with client.websocket_connect("/api/live") as live:
        for _ in range(2000):
            key = draw.choice(list(good))
            value = draw.choice(wrong)
            if (
                (key == "positive" and value is True)
                or (key == "id" and value in ("x",))
                or (key == "rev" and value == 99)
            ):
                value = None
            if key == "op" and value == "x":
                value = "__init__"
            text = json.dumps({**good, key: value})
            if key == "radius" and value == 99:
                text = text[:-2]
            live.send_text(text)
            while (reply := live.receive()).get("text") is None or json.loads(reply["text"])["type"] in (
                "session",
                "status",
            ):
                pass
            assert json.loads(reply["text"])["type"] == "error", (key, value, reply["text"])
    assert client.workspace.session.to_text() == before
