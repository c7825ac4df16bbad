"""Files are complete or absent."""

import pytest

from interconv_kernels._files import replacing, write_text


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new folder" / "file.json"
    write_text(path, "first")
    with replacing(path) as partial:
        assert partial.parent == path.parent
        assert partial.suffix == ".json"
        partial.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]


def test_an_interrupted_file_stays_as_it_was(tmp_path):
    path = tmp_path / "file"
    write_text(path, "first")

    def write_half():
        with replacing(path) as partial:
            partial.write_text("half of the sec")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
