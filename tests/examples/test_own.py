"""docs/own.md: its commands as printed, and its examples are the files."""

import re
import shlex

import numpy as np
import pytest
from ml_collections import ConfigDict

import convert_torch_ckpt
from dynvgd_jax import launch
from dynvgd_jax.audit import command as audit
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.demos import experts
from dynvgd_jax.envs import base
from dynvgd_jax.envs.robosuite.tasks import get_task
from dynvgd_jax.evaluate import command as evaluate
from examples import lift_high, point_mass_demos
from tests.support.command import ROOT

PAGE = (ROOT / "docs/own.md").read_text()
PROGRAMS = {
    "python launch.py": launch.main,
    "python convert_torch_ckpt.py": convert_torch_ckpt.main,
    "python -m dynvgd_jax.evaluate": evaluate.main,
    "python -m dynvgd_jax.audit": audit.main,
    "python -m examples.point_mass_demos": lambda argv: point_mass_demos.main(argv[1:]),
}
REACH = "examples.point_mass:reach"


def section(title):
    return next(part for part in PAGE.split("\n## ") if part.startswith(title + "\n"))


def type_in(title):
    """Runs the commands of a section, in the working directory."""
    (block,) = re.findall(r"```bash\n(.*?)```", section(title), re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines():
        program = next(name for name in PROGRAMS if line.startswith(name + " "))
        argv = [program, *shlex.split(line.removeprefix(program))]
        assert PROGRAMS[program](argv) in (0, None), line


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder in which commands run as in the clone."""
    for name in ("examples", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_shows_the_files_and_they_are_short():
    shown = re.findall(r"`(examples/\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert [name for name, _ in shown] == [
        "examples/point_mass.py",
        "examples/lift_high.py",
    ]
    for name, text in shown:
        assert text == (ROOT / name).read_text()
    for path in [*ROOT.glob("examples/point_mass*.py"), ROOT / "examples/lift_high.py"]:
        assert len(path.read_text().splitlines()) < 60, path


@pytest.mark.slow
@pytest.mark.usefixtures("polished_programs")
def test_an_own_simulator_from_demonstrations_to_a_steered_policy(clone, capsys):
    """Steering must help beyond the evaluation's interval, as the page says."""
    type_in("A policy from your own demonstrations")
    table = capsys.readouterr().out.split("dynvgd/tanh_randn - base/tanh_randn: ")[-1]
    low = float(re.match(r"[\d.]+ \[([-\d.]+),", table)[1])
    assert low > 0.05
    type_in("A policy from your own checkpoint")
    assert "ckpts/point_mass" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("polished_programs")
def test_an_own_robosuite_task_from_demonstrations_to_a_steered_policy(clone, capsys):
    type_in("A robosuite task")
    assert "dynvgd/tanh_randn - base/randn" in capsys.readouterr().out


def test_an_episode_of_the_simulator_by_hand():
    """At 0.1 a step a way of 0.35 is within 0.1 after three steps, at 0.05."""
    env = base.make_env(ConfigDict({"task": REACH}), unit_scale(), 2)
    env.reset(np.array([0, 1]), np.array([7, 8]))
    env.set_state({"state": np.array([[0.0, 0.0, 0.35, 0.0], [0.0, 0.0, -0.35, 0.0]])})
    actions = np.zeros((2, 4, 2))
    actions[:, :, 0] = 1.0
    env.step_async(np.array([0, 1]), actions)
    result = env.step_wait()
    np.testing.assert_array_equal(
        result.success, [[False, False, True, True], [False] * 4]
    )
    np.testing.assert_allclose(
        result.obs, [[0.4, 0, -0.05, 0], [0.4, 0, -0.75, 0]], atol=2e-6
    )
    again = env.reset(np.array([1]), np.array([7]))
    np.testing.assert_array_equal(again, env.reset(np.array([0]), np.array([7])))


def unit_scale():
    limits = [np.full(n, v, np.float32) for n, v in ((4, -1), (4, 1), (2, -1), (2, 1))]
    return Normalization(*limits)


@pytest.mark.parametrize(
    "engine", [pytest.param("exact", marks=pytest.mark.slow), "compiled"]
)
def test_the_compiled_task_is_robosuites_subclass(engine, monkeypatch):
    """Observations, rewards and success over demonstrated episodes, HIGH_M and not."""
    task = "examples.lift_high:high"
    assert get_task(task) is lift_high.TASKS["high"]
    envs = []
    for name in (engine, "robosuite"):
        config = ConfigDict({"task": task, "env": {"engine": name, "num_threads": 1}})
        envs.append(base.make_env(config, None, 1))
    here, seed = np.array([0]), np.array([3])
    try:
        ours, theirs = envs
        np.testing.assert_array_equal(ours.reset(here, seed), theirs.reset(here, seed))
        rng = np.random.default_rng(0)
        expert = experts.make_expert(task, "expert", rng)
        heights, successes = [], []
        for _ in range(60):
            action = expert.act(theirs.envs[0])[None, None]
            mine, other = ours.step(here, action), theirs.step(here, action)
            np.testing.assert_allclose(mine.obs, other.obs, atol=1e-5)
            np.testing.assert_array_equal(mine.reward, other.reward)
            np.testing.assert_array_equal(mine.success, other.success)
            heights.append(float(theirs.raw_obs[0, 11]))
            successes.append(bool(other.success[0, 0]))
    finally:
        for env in envs:
            env.close()
    raised = np.array(heights) - 0.8
    # what counts for robosuite's Lift, 4 cm, is not enough here
    assert (raised[~np.array(successes)] > 0.05).any() and any(successes)
    assert raised[np.array(successes)].min() > lift_high.HIGH_M - 1e-6
