"""A resumed run stands alone: contents decide, not the places where they once lay."""

import os
import shutil

import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.policy_files import load_policy, save_policy
from dynvgd_jax.runs.settings import read_config
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.origins import (
    CRITICS_NOTE,
    check_critics,
    check_policy,
    critics_sha256,
)
from dynvgd_jax.training.resume import find_saved
from tests.support.reach import ReachEnv
from tests.support.tiny_run import VECTOR_STEP, random_policy, tiny

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture
def begun(tmp_path):
    """(policy, configuration, folder) of a run whose base policy is its own."""
    policy = random_policy(tmp_path / "policies" / "mine")
    config = tiny(policy, total_env_steps=12 * VECTOR_STEP)
    return policy, config, tmp_path / "run"


def changed(config, **fields):
    other = config.copy_and_resolve_references().unlock()
    other.update_from_flattened_dict(fields)
    return other.lock()


def another(policy, folder):
    """The same sizes and other weights."""
    loaded = load_policy(policy)
    bias = loaded.params
    while isinstance(bias, dict):
        holder, name = bias, sorted(bias)[0]
        bias = bias[name]
    holder[name] = bias + 1e-3
    save_policy(folder, loaded)
    return folder


@pytest.mark.slow
def test_a_run_goes_on_without_the_folder_that_its_policy_came_from(
    begun, tmp_path, caplog
):
    policy, config, folder = begun
    train(config, folder, make_env=ReachEnv)
    moved = shutil.move(policy, tmp_path / "moved")
    for base_policy in (str(policy), str(moved), str(folder / "policy")):
        caplog.clear()
        steps = config.total_env_steps + VECTOR_STEP
        config = changed(config, base_policy=base_policy, total_env_steps=steps)
        train(config, folder, make_env=ReachEnv, resume=True)
        assert find_saved([folder], [config])[0].env_steps == steps
        assert read_config(folder).base_policy == base_policy
        if base_policy == str(policy):
            assert f"the run's own policy: there is no {policy} any more" in caplog.text
    with pytest.raises(
        UserError, match=r"cannot go on with .*another policy \(weights"
    ):
        other = another(moved, tmp_path / "other")
        find_saved([folder], [changed(config, base_policy=str(other))])


@pytest.mark.slow
def test_from_another_directory(begun, tmp_path, monkeypatch):
    policy, config, folder = begun
    monkeypatch.chdir(tmp_path)
    config = changed(config, base_policy=os.path.relpath(policy, tmp_path))
    train(config, folder, make_env=ReachEnv)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    train(config, folder, make_env=ReachEnv, resume=True)
    absolute = changed(config, base_policy=str(policy))
    train(absolute, folder, make_env=ReachEnv, resume=True)
    shutil.move(folder, tmp_path / "cwd" / "there")  # and the run itself
    train(absolute, tmp_path / "cwd" / "there", make_env=ReachEnv, resume=True)


def run_with(tmp_path, policy, **fields):
    """What the checks read of a run's folder."""
    folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
    shutil.copytree(policy, folder / "policy")
    config = tiny(policy, **fields)
    (folder / "config.json").write_text(config.to_json())
    return folder, config


def test_another_policy_is_refused_where_it_is_named_and_else_said(
    toy_policy, tmp_path
):
    own = tmp_path / "own"
    shutil.copytree(toy_policy, own)
    folder, config = run_with(tmp_path, own)
    assert check_policy(folder, config) == []
    save_policy(tmp_path / "again", load_policy(own))  # other bytes, the same values
    assert (
        check_policy(folder, changed(config, base_policy=str(tmp_path / "again"))) == []
    )
    other = another(own, tmp_path / "other")
    with pytest.raises(UserError, match=r"another policy \(weights\); leave it out"):
        check_policy(folder, changed(config, base_policy=str(other)))
    wider = random_policy(tmp_path / "wider", obs_dim=5)
    with pytest.raises(UserError, match=r"network, normalisation, weights"):
        check_policy(folder, changed(config, base_policy=str(wider)))
    with pytest.raises(UserError, match=r"no-such-task|built-in|builtin"):
        check_policy(
            folder, changed(config, base_policy="builtin", task="no-such-task")
        )
    # the place is the one it began with, the content is not: the run's own is used
    shutil.rmtree(own)
    shutil.move(other, own)
    (said,) = check_policy(folder, config)
    assert "another policy (weights) than when the run began" in said
    (own / "policy.json").write_text("{")
    (said,) = check_policy(folder, config)
    assert said.startswith("the run's own policy: ") and "policy.json" in said
    shutil.rmtree(folder / "policy")
    with pytest.raises(UserError, match="no policy of its own to compare"):
        check_policy(folder, changed(config, base_policy=str(wider)))


@pytest.mark.slow
def test_initial_critics_are_compared_by_content(toy_policy, tmp_path, finished_run):
    critics = tmp_path / "critics"
    shutil.copytree(finished_run, critics)
    folder, config = run_with(tmp_path, toy_policy, initial_critics=str(critics))
    notes = {CRITICS_NOTE: critics_sha256(str(critics))}
    moved = shutil.move(critics, tmp_path / "moved")
    newest = max((moved / "checkpoints").iterdir(), key=lambda path: int(path.name))
    assert critics_sha256(str(newest)) == notes[CRITICS_NOTE]
    for same in (critics, moved, newest):
        check_critics(folder, changed(config, initial_critics=str(same)), notes)
    before = min((moved / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for other in ("", str(before)):
        with pytest.raises(UserError, match="it began with other critics"):
            check_critics(folder, changed(config, initial_critics=other), notes)
    fresh, config = run_with(tmp_path, toy_policy)
    check_critics(fresh, config, {})
    with pytest.raises(UserError, match="it began with other critics"):
        check_critics(fresh, changed(config, initial_critics=str(moved)), {})
