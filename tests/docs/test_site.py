"""The built site (`make docs`) and the links of the files that GitHub shows."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from pages import ROOT

SITE = ROOT / "out/site"
# What a browser loads by itself when it opens a page.
LOADED = {"script": "src", "img": "src", "source": "srcset", "iframe": "src", "video": "src", "audio": "src"}
LOADED |= {"link": "href", "object": "data", "embed": "src", "use": "href", "image": "href"}
SOURCES = {".py", ".h", ".cpp", ".cu", ".md", ".toml", ".yml", ".yaml"}
COMMANDS = re.compile(r"^ {2,4}([a-z][a-z-]+)  ", re.MULTILINE)


class Page(HTMLParser):
    """The addresses that a page loads and links to, and its anchors."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.anchors = [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if "id" in values:
            self.anchors.add(values["id"])
        if values.get(LOADED.get(tag)):
            self.loads.append(values[LOADED[tag]])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])


@pytest.fixture(scope="module")
def pages():
    assert (SITE / "index.html").exists(), "no site in out/site: run `make docs`"
    return {path: Page(path) for path in SITE.rglob("*.html")}


def test_no_page_loads_anything_from_elsewhere(pages):
    for path, page in pages.items():
        for address in page.loads:
            assert not urlsplit(address).netloc, f"{path}: loads {address}"
    for style in SITE.rglob("*.css"):
        for address in re.findall(r"(?:url\(|@import )[\"']?([^)\"']+)", style.read_text()):
            assert urlsplit(address).scheme in ("", "data"), f"{style}: loads {address}"
            assert not urlsplit(address).netloc, f"{style}: loads {address}"
    assert 'class="mermaid"' not in "".join(path.read_text() for path in pages)  # its script would be downloaded


def test_all_local_addresses_exist(pages):
    for path, page in pages.items():
        if path.name == "404.html":  # made for the root of a server
            continue
        for address in page.loads + page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path}: {address}"
            if parts.fragment and target.suffix == ".html":
                assert unquote(parts.fragment) in pages[target].anchors | {"__comments"}, f"{path}: {address}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_the_links_on_github(name):
    text = (ROOT / name).read_text()
    for address in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        link = address[0] or address[1]
        if not urlsplit(link).scheme:
            assert (ROOT / urlsplit(link).path).exists(), link


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 90


@pytest.mark.parametrize("program", ["interconv", "python -m benchmarks"])
def test_every_command_is_on_the_page(program):
    text = (SITE / "api/commands.html").read_text()
    usage = text.split(f"usage: {program}", 1)[1].split("</code>", 1)[0]
    source = (ROOT / "docs/api/commands.md").read_text()
    found = COMMANDS.findall(re.sub(r"<[^>]*>", "", usage))
    assert len(found) >= 6, usage
    for name in found:
        assert f"<!-- help: {program} {name} -->" in source


@pytest.mark.parametrize("folder", ["benchmarks", "csrc", "interconv_kernels", "python", "tests", ".github", "."])
def test_files_of_the_documentation_that_are_named_in(folder):
    """Comments and docstrings name a page by its file."""
    for path in (ROOT / folder).glob("*" if folder == "." else "**/*"):
        if path.suffix in SOURCES or path.name == "Makefile":
            for address in re.findall(r"\bdocs/[\w/.-]+\.(?:md|png|svg)\b", path.read_text()):
                assert (ROOT / address).exists(), f"{path}: {address}"
