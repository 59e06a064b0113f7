"""What a run says as it goes, and several seeds of which one cannot be saved."""

import errno
import shutil

import pytest

from dynvgd_jax.training import resume, saving
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.resume import find_saved
from dynvgd_jax.training.setup import seed_configs
from tests.support.reach import PowerCutError, ReachEnv, acting_at
from tests.support.same_run import notes_of, scalars
from tests.support.tiny_run import MANY_CHECKPOINTS, VECTOR_STEP, tiny

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.mark.slow
@pytest.mark.parametrize("broken", [0, 1])
def test_a_seed_whose_folder_fails_for_a_while_does_not_cost_the_run(
    toy_policy, tmp_path, monkeypatch, broken
):
    """Killed while it fails, the run goes on from the newest step that all have."""
    config = tiny(toy_policy, num_seeds=2, seed=3, **MANY_CHECKPOINTS)
    monkeypatch.setattr(saving, "RETRY_CHECKPOINT_S", 0.0)
    original, failing = resume.write_durably, []

    def write_durably(path, content):
        if failing and f"seed{3 + broken}" in path.parts:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        original(path, content)

    def die():
        raise PowerCutError

    monkeypatch.setattr(resume, "write_durably", write_durably)
    # both seeds' steps count: 16 of the base policy, whose results both share
    at = {16 + 2 * 8 + 1: lambda: failing.append(1), 16 + 2 * 22: die}
    folder = tmp_path / "run"
    with pytest.raises(PowerCutError):
        train(config, folder, make_env=acting_at(at))
    failing.clear()
    folders = [folder / "seed3", folder / "seed4"]
    saved = find_saved(folders, seed_configs(config))
    assert [s.env_steps for s in saved] == [5 * VECTOR_STEP] * 2
    for seed in folders:
        assert len(list((seed / "checkpoints").iterdir())) == 2
    train(config, folder, make_env=ReachEnv, resume=True)


def test_values_out_of_range_are_warned_of_once(toy_policy, tmp_path, capsys):
    changes = {"critic.initial_value": -500.0, "gamma": 1.0, "target_clip": 0.0}
    changes |= {"bootstrap_at_time_limit": True}
    train(tiny(toy_policy, **changes), tmp_path / "run", make_env=ReachEnv)
    err = capsys.readouterr().err
    assert err.count("nothing bounds them; lower gamma, or set target_clip") == 1
    assert scalars(tmp_path / "run")["train/q_range_excess"][0][1] > 1


@pytest.mark.slow
def test_initial_critics_that_moved_and_others(toy_config, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "critics")
    config = toy_config.copy_and_resolve_references().unlock()
    config.initial_critics = str(tmp_path / "critics")
    folder = tmp_path / "run"
    train(config, folder, make_env=ReachEnv)
    last = config.total_env_steps
    assert notes_of(folder, last)["initial_critics_sha256"]
    config.initial_critics = str(shutil.move(tmp_path / "critics", tmp_path / "moved"))
    config.total_env_steps += VECTOR_STEP
    train(config, folder, make_env=ReachEnv, resume=True)
    steps = last + VECTOR_STEP
    assert notes_of(folder, steps)["initial_critics_sha256"]
