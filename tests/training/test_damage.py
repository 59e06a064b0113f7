"""Damage of a run's files is noticed: the checkpoint before is used, or it is named."""

import errno
import json
import shutil

import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs import checkpoint
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.resume import ResumeStore, find_saved
from tests.support.reach import ReachEnv
from tests.support.tiny_run import VECTOR_STEP


def checkpoint_files(folder, steps):
    """The files of which a checkpoint is made, those it shares with others too."""
    for kind in ("checkpoints", "resume"):
        yield from (p for p in (folder / kind / str(steps)).rglob("*") if p.is_file())
    notes = folder / "resume" / f"{steps}.json"
    yield notes
    # the checkpoint before may need older segments too
    segments = json.loads(json.loads(notes.read_text())["notes"])["segments"]
    yield from (folder / "replay" / segment["name"] for segment in segments)
    yield folder / "eval.csv"
    yield from folder.glob("events.*")


def damages(path):
    """Damages a file in several ways, one after the other, and mends it."""
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 0x04]) if content else b"x"
    for bad in (
        content[:middle],
        content[:middle] + flipped + content[middle + 1 :],
        None,
    ):
        # what grows with the run has no checksum: only its length is known
        grows = path.name == "eval.csv" or path.name.startswith("events.")
        if grows and bad is not None and len(bad) == len(content):
            continue
        path.unlink() if bad is None else path.write_bytes(bad)
        yield "missing" if bad is None else f"{len(bad)} bytes"
        path.write_bytes(content)


@pytest.mark.slow
def test_every_damage_of_every_file_is_noticed(toy_config, finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    newest, before = 24 * VECTOR_STEP, 20 * VECTOR_STEP
    assert find_saved([folder], [toy_config])[0].env_steps == newest
    kinds = {"before": 0, "none": 0}
    for path in list(checkpoint_files(folder, newest)):
        for damage in damages(path):
            try:
                found = find_saved([folder], [toy_config])[0].env_steps
                assert found == before, (path, damage)
                kinds["before"] += 1
            except UserError as error:  # a file that both need
                assert "no sound checkpoint" in str(error), (path, damage)
                kinds["none"] += 1
    # 3 each of two manifests, the notes, Orbax' files and the newest segment
    assert kinds["before"] >= 3 * 8 and kinds["none"] >= 3
    assert find_saved([folder], [toy_config])[0].env_steps == newest


def test_a_file_that_cannot_be_read_falls_back(
    toy_config, finished_run, monkeypatch, caplog
):
    newest, before = 24 * VECTOR_STEP, 20 * VECTOR_STEP
    original = checkpoint.sha256

    def sha256(path):
        if f"checkpoints/{newest}/" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return original(path)

    monkeypatch.setattr(checkpoint, "sha256", sha256)
    assert find_saved([finished_run], [toy_config])[0].env_steps == before
    assert f"checkpoint {newest} cannot be used: " in caplog.text


def test_what_a_kill_inside_a_save_left_is_deleted(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    for name in ("checkpoints", "resume", "replay"):
        (folder / name / ".7.partial").mkdir()
        (folder / name / ".7.json.partial").write_text("x")
    ResumeStore(folder).forget_after(24 * VECTOR_STEP)
    assert not list(folder.rglob(".*.partial"))
    assert list(folder.rglob("*.npy"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.json", "damaged|cannot go on"),
        ("policy/policy.json", "damaged|not describe|missing"),
        ("policy/normalization.npz", "normalization.npz"),
        ("policy/weights/manifest.json", "damaged|missing"),
    ],
)
def test_damage_of_the_runs_own_settings_is_named(
    toy_config, finished_run, tmp_path, name, words
):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    for damage in damages(folder / name):
        before = sorted(p for p in folder.rglob("*"))
        with pytest.raises(UserError, match=f"{words}|holds no") as caught:
            train(toy_config, folder, make_env=ReachEnv, resume=True)
        assert "\n" not in str(caught.value), damage
        assert sorted(p for p in folder.rglob("*")) == before


def test_other_versions_are_named(toy_config, finished_run, tmp_path, caplog):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    versions = folder / "versions.json"
    found = versions.read_text()
    versions.write_text(found.replace('"mujoco": "3.3.7"', '"mujoco": "3.3.6"'))
    find_saved([folder], [toy_config])
    assert "resuming with mujoco: 3.3.6 -> 3.3.7" in caplog.text
    versions.write_text("{")
    find_saved([folder], [toy_config])
    assert "resuming with unknown versions" in caplog.text
