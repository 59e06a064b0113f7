"""Folders that appear complete or not at all: what is left behind after an error."""

import pytest

from dynvgd_jax.runs.durable import new_folder


def fill(path, fails):
    with new_folder(path) as partial:
        (partial / "x").write_text("x")
        if fails:
            raise ValueError("refused")


def test_parents_made_for_a_folder_go_with_it(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(ValueError, match="refused"):
        fill(tmp_path / "old" / "aa" / "bb" / "cc", fails=True)
    assert [p.name for p in tmp_path.rglob("*")] == ["old"]
    fill(tmp_path / "old" / "aa" / "cc", fails=False)
    with pytest.raises(ValueError, match="refused"):
        fill(tmp_path / "old" / "aa" / "bb" / "dd", fails=True)
    names = sorted(p.name for p in tmp_path.rglob("*"))
    assert names == ["aa", "cc", "old", "x"]


def test_a_parent_that_somebody_else_uses_stays(tmp_path):
    with pytest.raises(ValueError, match="refused"), new_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "other").write_text("x")
        raise ValueError("refused")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["other"]
