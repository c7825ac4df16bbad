"""The drop-in table: each test marked `drop_in(library, what, limitation=None)` is a check of one row.

    @pytest.mark.drop_in("timm", "surgery keeps the outputs of {name}")
    @pytest.mark.parametrize("name", ["resnet18", "convnext_tiny"])
    def test_surgery_of_timm(name): ...

{name} is a parameter of the test, so that this makes two rows; without it, it would be one row of two checks. What does
not work is a row too: its test asserts what happens instead, an error, and `limitation` tells the user what to do.
"""

from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

import pytest

PAGE = """# Drop-in table

InterConv in the networks and the tools of other libraries. Each row is a test with the real library, and
`make test-integrations` writes this page. A limitation is tested too: the test asserts what happens instead.

With {versions}.

{summary}

| library | what | result | checks | tested in |
|---|---|---|---:|---|
{rows}
"""


LIBRARIES = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "monai", "nnunetv2", "lightning", "onnx")
LIBRARIES += ("onnxruntime", "huggingface-hub", "kernels")


@dataclass
class Row:
    """The checks of one row.

    Attributes:
        limitation: what the mark says, or "".
        file: where the tests are, from the root of the repository.
        outcomes: test -> "passed", or "failed" or "skipped" if one of its phases (setup, call, teardown) was.
    """

    limitation: str
    file: str
    outcomes: dict[str, str] = field(default_factory=dict)

    @property
    def result(self) -> str:
        for outcome, shown in (("failed", "FAIL"), ("skipped", "NOT RUN")):
            if outcome in self.outcomes.values():
                return shown
        return f"limitation: {self.limitation}" if self.limitation else "PASS"


class Table:
    """Gathers the rows from the reports of the tests."""

    def __init__(self):
        self.rows = {}

    def pytest_runtest_logreport(self, report):
        for name, value in report.user_properties:
            if name == "drop_in":
                library, what, limitation = value
                row = self.rows.setdefault((library, what), Row(limitation, report.nodeid.partition("::")[0]))
                if report.outcome != "passed":
                    row.outcomes[report.nodeid] = report.outcome
                else:
                    row.outcomes.setdefault(report.nodeid, "passed")

    def pytest_sessionfinish(self, session):
        path = session.config.getoption("drop_in_table")
        if path:
            path.write_text(self.page())

    def page(self) -> str:
        lines, results = [], []
        for (library, what), row in sorted(self.rows.items(), key=lambda item: (item[0][0].lower(), item[0][1])):
            results.append(row.result)
            lines.append(f"| {library} | {what} | {row.result} | {len(row.outcomes)} | `{row.file}` |")
        counts = [f"{results.count(result)} {result}" for result in ("PASS", "FAIL", "NOT RUN")]
        limitations = sum(result.startswith("limitation") for result in results)
        summary = f"{len(lines)} rows: {', '.join(counts)}, {limitations} documented limitations."
        return PAGE.format(versions=_versions(), summary=summary, rows="\n".join(lines))


def _versions() -> str:
    installed = {distribution.name.lower().replace("_", "-"): distribution.version for distribution in distributions()}
    return ", ".join(f"{name} {installed[name]}" for name in LIBRARIES if name in installed)


def pytest_addoption(parser):
    parser.addoption("--drop-in-table", type=Path, metavar="FILE", help="write the results of the marked tests to FILE")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # with xdist, only the process that gets the reports of all
        config.pluginmanager.register(Table(), "drop-in-table")


def pytest_itemcollected(item):
    mark = item.get_closest_marker("drop_in")
    if mark is not None:
        item.user_properties.append(("drop_in", _row_of(item, *mark.args, **mark.kwargs)))


def _row_of(item, library: str, what: str, limitation: str = "") -> list[str]:
    """The cells that the mark gives, with the parameters of the test in them: a list, which xdist can pass on."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    cells = [library.format(**parameters), what.format(**parameters), limitation]
    if any("|" in cell or "\n" in cell for cell in cells):
        raise pytest.UsageError(f"{item.nodeid}: drop_in{tuple(cells)}: expected one line without '|'")
    return cells
