"""One of several seeds cannot be saved for a while: a common step always stays."""

import errno

import numpy as np
import pytest

from dynvgd_jax.runs.durable import remove_partials
from dynvgd_jax.training import resume
from dynvgd_jax.training.resume import ResumeStore, keep_common


class Disk:
    """Seeds' folders, some of which take nothing for a while."""

    def __init__(self, folder, monkeypatch, seeds=3):
        self.stores = [ResumeStore(folder / f"seed{i}") for i in range(seeds)]
        self.broken = set()
        original = resume.write_durably

        def write_durably(path, content):
            for i in self.broken:
                if f"seed{i}" in path.parts:
                    raise OSError(errno.ENOSPC, "No space left on device", str(path))
            original(path, content)

        monkeypatch.setattr(resume, "write_durably", write_durably)

    def save(self, step, broken=()):
        """As the training loop: in order up to the first that fails."""
        self.broken = set(broken)
        try:
            for store in self.stores:
                tree, notes = {"w": np.full(2, step)}, {"segments": [], "at": step}
                store.save(step, tree, {"env": np.full(1, step)}, notes)
        except OSError:
            keep_common(self.stores)
            return False
        keep_common(self.stores)
        return True

    def common(self):
        found = [set(store.candidates()) for store in self.stores]
        return sorted(set.intersection(*found))


@pytest.mark.parametrize("broken", [{0}, {1}, {2}, {0, 2}])
def test_a_seed_that_fails_for_a_while_keeps_the_newest_common_step(
    tmp_path, monkeypatch, broken
):
    disk = Disk(tmp_path, monkeypatch)
    for step in (10, 20):
        assert disk.save(step)
    for step in range(30, 80, 10):
        assert not disk.save(step, broken)
        assert disk.common() == [10, 20]
        for store in disk.stores:  # what cannot be resumed from takes no space
            assert store.candidates() == [20, 10]
            assert len(list((store._workdir / "resume").iterdir())) == 4
    assert disk.save(80)
    assert disk.common() == [20, 80]
    assert [store.candidates() for store in disk.stores] == [[80, 20]] * 3
    assert disk.save(90)
    assert disk.common() == [80, 90]


def test_nothing_is_deleted_before_all_have_saved(tmp_path, monkeypatch):
    disk = Disk(tmp_path, monkeypatch)
    for step in (10, 20):
        disk.save(step)
    for store in disk.stores[:2]:  # the process dies before the last one
        store.save(30, {"w": np.ones(2)}, {"env": np.ones(1)}, {"segments": []})
    assert disk.common() == [10, 20]
    assert disk.stores[0].candidates() == [30, 20, 10]


def test_seeds_that_never_had_a_step_in_common_lose_nothing(tmp_path, monkeypatch):
    disk = Disk(tmp_path, monkeypatch, seeds=2)
    tree = ({"w": np.ones(2)}, {"env": np.ones(1)}, {"segments": []})
    disk.stores[0].save(10, *tree)
    keep_common(disk.stores)
    assert disk.stores[0].candidates() == [10]
    disk.stores[1].save(20, *tree)
    keep_common(disk.stores)
    assert [store.candidates() for store in disk.stores] == [[10], [20]]


def test_notes_that_cannot_be_replaced_leave_the_checkpoint(tmp_path, monkeypatch):
    """After an evaluation the same step is saved again."""
    disk = Disk(tmp_path, monkeypatch)
    for step in (10, 20):
        disk.save(step)
    assert not disk.save(20, {1})
    assert disk.common() == [10, 20]
    assert all(store._read_notes(20)["at"] == 20 for store in disk.stores)


def test_a_checkpoint_is_never_seen_half_deleted(tmp_path, monkeypatch):
    disk = Disk(tmp_path, monkeypatch, seeds=1)
    for step in (10, 20):
        disk.save(step)

    def dies(path, *arguments, **options):
        next(p for p in path.rglob("*") if p.is_file()).unlink()
        raise OSError(errno.EIO, "Input/output error", str(path))

    (store,) = disk.stores
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", dies)
        with pytest.raises(OSError, match="Input/output"):
            store.keep([20])
    assert store.candidates() == [20]
    store.keep([20])
    remove_partials(tmp_path / "seed0" / "checkpoints")
    assert [p.name for p in (tmp_path / "seed0" / "checkpoints").iterdir()] == ["20"]
