import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "kernels"))  # for common.py


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The path of an empty tuned.json."""
    from interconv_kernels._backends.triton import tuned

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for cached in (tuned.table, tuned._warn_once):
        cached.cache_clear()
    yield tmp_path / "interconv_kernels" / "tuned.json"
    for cached in (tuned.table, tuned._warn_once):
        cached.cache_clear()
