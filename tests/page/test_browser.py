"""The page in a real browser (Chromium), with the test double of `page_common` as its network."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium")
SHOTS = Path(os.environ.get("PAGE_SHOTS", HERE.parent.parent / "out/page"))
pytest.importorskip("playwright", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (make test-page)")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def start(store, port, name="cine"):
    command = [sys.executable, HERE / "serve.py", store, str(port), name]
    process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().split(": ")[1].strip()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, tmp_path):
    process, url = start(tmp_path, free_port())
    context = browser.new_context(viewport={"width": 1360, "height": 820})
    opened = context.new_page()
    errors, requests = [], []
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(url)
    wait(opened, "window.page && page.state.images.length === 16 && page.state.masks.size > 0")
    yield opened
    assert errors == []
    origin = url.split("/?")[0]
    assert [u for u in requests if not u.startswith((origin, "blob:" + origin, origin.replace("http", "ws")))] == []
    context.close()
    process.kill()


def wait(page, condition):
    """Polls from outside: the page's policy forbids the evaluation that playwright's own waiting uses."""
    end = time.monotonic() + 40
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(30)


def drag(page, points, button="left"):
    places = [page.evaluate(f"page.onScreen({x}, {y})") for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down(button=button)
    for place in places[1:]:
        page.mouse.move(*place, steps=8)


def settled(page, undo):
    wait(page, f"page.state.undo === {undo} && !page.state.stale && page.state.local.size === 0")


def planes(page):
    return page.evaluate(
        "[...page.state.masks.get(1)].sort((a, b) => a[0] - b[0]).map(([i, m]) => [...m.values].join())"
    )


def test_draw_follow_undo_export_and_the_screens(page):
    SHOTS.mkdir(parents=True, exist_ok=True)
    assert page.evaluate("Math.max(...page.state.masks.get(1).get(5).values)") == 0
    drag(page, [(60, 60), (72, 68)])
    wait(page, "Math.max(...page.state.masks.get(1).get(5).values) > 127")  # before mouse-up
    page.mouse.up()
    settled(page, 1)
    first = planes(page)
    drag(page, [(30, 106), (36, 108)], button="right")
    page.mouse.up(button="right")
    settled(page, 2)
    second = planes(page)
    assert second != first
    wait(page, "page.state.scores.size > 0")
    page.screenshot(path=SHOTS / "work.png")
    page.keyboard.press("Control+z")
    settled(page, 1)
    assert planes(page) == first
    page.keyboard.press("Control+y")
    settled(page, 2)
    assert planes(page) == second
    page.reload()
    wait(page, "window.page && page.state.masks.get(1)?.size === 16")
    assert planes(page) == second
    for key, name in (("?", "shortcuts"), ("Shift+O", "start"), ("Control+s", "export")):
        page.keyboard.press(key)
        page.wait_for_selector("dialog[open]")
        page.wait_for_timeout(300)
        page.screenshot(path=SHOTS / f"{name}.png")
        if name != "export":
            page.keyboard.press("Escape")
    with page.expect_download() as download:
        page.click("#export-go")
    assert download.value.path().stat().st_size > 1000


def test_the_keyboard_alone_and_zoomed_strokes(page):
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    settled(page, 1)
    assert page.evaluate("page.state.strokes.get(0)[0].points[0]") == [64, 64]
    page.keyboard.press("a")
    settled(page, 2)
    assert page.evaluate("page.state.accepted.has(0)")
    page.keyboard.press("k")
    page.keyboard.press("ArrowRight")
    for _ in range(3):
        page.keyboard.press("+")
    drag(page, [(60, 70), (70, 62)])
    page.mouse.up()
    settled(page, 3)
    x, y = page.evaluate("page.state.strokes.get(1)[0].points[0]")
    assert abs(x - 60) < 0.5
    assert abs(y - 70) < 0.5


def test_strokes_drawn_while_the_server_is_away_arrive(browser, tmp_path):
    port = free_port()
    process, url = start(tmp_path, port)
    page = browser.new_page()
    page.goto(url)
    wait(page, "window.page && page.state.masks.size > 0")
    drag(page, [(60, 60), (70, 66)])
    page.mouse.up()
    settled(page, 1)
    process.kill()  # SIGKILL
    process.wait()
    wait(page, "!page.timing.connected")
    drag(page, [(60, 70), (70, 72)])
    page.mouse.up()
    process, _ = start(tmp_path, port)
    settled(page, 2)
    assert page.evaluate("page.state.strokes.get(0).length") == 2
    page.close()
    process.kill()
