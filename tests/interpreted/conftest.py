import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "kernels"))  # for common.py


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The path of an empty tuned.json."""
    from interconv_kernels import tuned

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached = (tuned.table, tuned.machine, tuned._warn_once)
    for function in cached:
        function.cache_clear()
    yield tmp_path / "interconv_kernels" / "tuned.json"
    for function in cached:
        function.cache_clear()
