"""Run folders of any name: what is saved there can be read, and nothing lies elsewhere.

Orbax looks for its files with glob patterns, TensorStore takes a backslash for a slash,
and both take `gs:` for a cloud.
"""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.replay.log import ReplayLog
from dynvgd_jax.runs import checkpoint
from dynvgd_jax.runs.checkpoint import CheckpointStore
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.resume import ResumeStore, find_saved
from tests.replay.test_log import ROWS, transitions
from tests.support.reach import ReachEnv
from tests.support.stored import EXAMPLE_WITH_EXTRAS
from tests.support.tiny_run import VECTOR_STEP, tiny

NAMES = (
    "seed[0]",
    "[a-z]*",
    "a*b?",
    "back\\slash",
    "\\",
    "{a,b}",
    "a%20b c",
    "50%",
    "gs:",
    "s3:",
    "file:",
    "a:b#c?d",
    "'\"$HOME;&|",
    "~",
    "-x",
    "ünï",
    "two\nlines",
    os.fsdecode(b"\xff"),  # no text at all
)


@pytest.mark.parametrize("place", ["itself", "parent"])
@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_in_a_folder_of_any_name(tmp_path, name, place):
    run = tmp_path / name if place == "itself" else tmp_path / name / "run"
    store = CheckpointStore(run / "checkpoints")
    for step in (5, 6):  # the names of open folders come again
        store.save(step, {"w": jnp.full(300, float(step)), "b": {"k": jnp.zeros(2)}})
    for step in (5, 6):
        store.verify(step)
        found = store.restore(step, {"w": jnp.ones(300), "b": {"k": jnp.ones(2)}})
        np.testing.assert_array_equal(found["w"], np.full(300, step))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    store.keep([6])
    assert store.steps() == [6]


@pytest.mark.parametrize("name", NAMES)
def test_replay_segments_in_a_folder_of_any_name(tmp_path, name):
    log = ReplayLog(tmp_path / name / "replay", 4 * ROWS)
    for number in range(3):
        log.add(transitions(number))
        log.write()
    again = ReplayLog(tmp_path / name / "replay", 4 * ROWS, log.segments)
    np.testing.assert_array_equal(
        again.read((4 * ROWS,), EXAMPLE_WITH_EXTRAS).reward[:ROWS],
        transitions(0).reward,
    )
    log.keep([log.segments[-1]["name"]])
    assert [p.name for p in log.folder.iterdir()] == [log.segments[-1]["name"]]


def test_a_system_without_names_of_open_folders_refuses_at_the_first_save(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "_OPEN_FOLDERS", tmp_path / "none")
    with pytest.raises(UserError, match=r"cannot be kept in .*seed\[0\].* on this"):
        CheckpointStore(tmp_path / "seed[0]").save(1, {"w": jnp.ones(1)})
    assert list(tmp_path.iterdir()) == []
    CheckpointStore(tmp_path / "seed_0").save(1, {"w": jnp.ones(1)})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seed[0]", "back\\slash"])
def test_a_run_in_such_a_folder_goes_on(toy_policy, tmp_path, name):
    config = tiny(toy_policy, total_env_steps=12 * VECTOR_STEP)
    folder = tmp_path / name / "run[1]"
    train(config, folder, make_env=ReachEnv)
    assert find_saved([folder], [config])[0].env_steps == 12 * VECTOR_STEP
    more = config.copy_and_resolve_references().unlock()
    more.total_env_steps = 14 * VECTOR_STEP
    train(more.lock(), folder, make_env=ReachEnv, resume=True)
    assert ResumeStore(folder).candidates()[0] == 14 * VECTOR_STEP
    assert [path.name for path in tmp_path.iterdir()] == [name]
