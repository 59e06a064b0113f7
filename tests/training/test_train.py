"""A tiny run from end to end: what it leaves behind, and what it refuses."""

import contextlib
import io
import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs import base
from dynvgd_jax import load_agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion import policy_files as policies
from dynvgd_jax.training.loop import train
from tests.support.reach import ReachEnv
from tests.support.same_run import scalars
from tests.support.tiny_run import VECTOR_STEP, random_policy, tiny

pytestmark = pytest.mark.usefixtures("shared_programs")

PUBLISHED_NAMES = """
train/critic_loss train/q0_mean train/q1_mean train/q_std_inter_critic
train/q_diff_max_min train/td_error_mean train/td_error_std train/success_rate
train/ep_rew_mean train/ep_len_mean guide/lambda_base guide/lambda_mean
guide/weight_mean guide/grad_norm guide/weighted_grad_norm guide/delta_norm
guide/ratio_weighted_grad_to_delta guide/cosine guide/cosine_pos_frac guide/q_pre
guide/q_post guide/delta_q eval/success_rate eval/reward eval/timesteps
""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    policy = random_policy(folder / "policy")
    with contextlib.redirect_stderr(io.StringIO()) as told:
        train(tiny(policy), folder / "run", make_env=ReachEnv)
    (folder / "told").write_text(told.getvalue())
    return folder / "run"


def test_a_policy_of_another_task_is_refused(tmp_path):
    # Can and Square have the same sizes, so that only the name tells them apart.
    config = base.get_config()
    config.task, config.base_policy = "square", str(policies.ASSETS / "can")
    with pytest.raises(UserError, match="for task 'can', expected one for 'square'"):
        train(config.lock(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_leaves_everything_behind(run):
    events = EventAccumulator(str(run))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert set(PUBLISHED_NAMES) <= names
    activities = ("act", "rollout", "propose", "update")
    shares = {f"time/{name}_share" for name in (*activities, "eval")}
    line = {f"time/{name}_ms" for name in (*activities, "idle")}
    assert shares | line | {"time/control_steps_per_s"} <= names
    # The first training call (vector step 11) is logged, then every 4th, then the end.
    steps = [p.step // VECTOR_STEP for p in events.Scalars("train/critic_loss")]
    assert steps == [11, 12, 16, 20, 24]
    values = [p.value for p in events.Scalars("train/num_updates")]
    assert values[-1] == 2 * 14  # UTD 2, 24 - 10 training calls
    config = json.loads((run / "config.json").read_text())
    assert config["critic"]["width"] == 16
    assert json.loads((run / "versions.json").read_text())["mujoco"]


def test_eval_csv_by_row(run):
    rows = (run / "eval.csv").read_text().splitlines()
    assert rows[0] == (
        "control_steps,policy,seed,success_any,success_chunk,return,length"
    )
    fields = [row.split(",") for row in rows[1:]]
    evaluated = [(f[0], f[1]) for f in fields[::3]]
    assert evaluated == [
        ("0", "base/tanh_randn"),
        ("0", "base/randn"),
        (str(12 * VECTOR_STEP), "dynvgd/tanh_randn"),
        (str(24 * VECTOR_STEP), "dynvgd/tanh_randn"),
    ]
    seeds = [tuple(f[2] for f in fields[i : i + 3]) for i in range(0, 12, 3)]
    assert len(set(seeds)) == 1  # every policy plays the same episodes
    assert all(f[6] == "32" for f in fields)


def test_every_evaluation_is_told_as_it_ends(run):
    """On stderr, which is no terminal here: a killed job has shown its results."""
    lines = (run.parent / "told").read_text().splitlines()
    told = [i for i, line in enumerate(lines) if line.startswith("evaluated at ")]
    steps = [lines[i].split()[2] for i in told]
    assert steps == ["0", "0", f"{12 * VECTOR_STEP}", f"{24 * VECTOR_STEP}"]
    assert all("success" in lines[i] and "3 episodes" in lines[i] for i in told)
    assert told[-1] > told[2] and told[2] < len(lines) - 2  # not all at the end


def test_checkpoints_and_agents(run):
    names = sorted(int(path.name) for path in (run / "checkpoints").iterdir())
    assert names == [12 * VECTOR_STEP, 24 * VECTOR_STEP]
    newest, older = load_agent(run), load_agent(run / "checkpoints" / str(names[0]))
    assert (newest.env_steps, older.env_steps) == (names[1], names[0])
    assert int(older.learner.num_updates) == 2 * 2
    strong = load_agent(run, {"guidance.scale": 0.5, "guidance.time_anneal": "off"})
    obs, noise = np.zeros((5, 4)), np.random.default_rng(0).normal(size=(5, 4, 2))
    weak, pushed = newest.act(obs, noise, 7.0), strong.act(obs, noise, 7.0)
    assert weak.shape == (5, 4, 2) and np.abs(pushed).max() <= 1.0
    assert np.abs(pushed - weak).max() > 0
    with pytest.raises(ValueError, match=r"found noise \(5, 2, 4\)"):
        newest.act(obs, noise.swapaxes(1, 2))
    for bad in (obs[:0], obs[0], np.float32(1)):
        with pytest.raises(ValueError, match="found obs"):
            newest.act(bad, noise)
    with pytest.raises(ValueError, match="found no noise"):
        newest.act(obs)
    for td_error in (np.nan, -1.0):
        with pytest.raises(ValueError, match="found td_error"):
            newest.act(obs, noise, td_error)
    with pytest.raises(UserError, match="'vgd' weighs nothing by a TD error"):
        load_agent(run, {"method": "vgd"}).act(obs, noise, 7.0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"guidance.scal": 1.0}, "nearest is config.guidance.scale"),
        ({"critic.width": 32}, "does not fit"),
        ({"guidance.last_k": 3}, "last_k"),
        ({"task": "square"}, "for task 'can', expected one for 'square'"),
        (
            {"method": "golden_ticket"},
            "a run of method 'dynvgd', whose state says nothing to method 'golden_t",
        ),
    ],
)
def test_bad_overrides_are_named(run, overrides, message):
    with pytest.raises(UserError, match=message):
        load_agent(run, overrides)


def test_missing_run_and_checkpoint(run, tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        load_agent(tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        load_agent(tmp_path / "none")
    with pytest.raises(UserError, match="no checkpoint 7"):
        load_agent(run / "checkpoints" / "7")


def test_home_folders_are_expanded(run, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parent))
    assert load_agent("~/run").env_steps == 24 * VECTOR_STEP


def test_an_existing_run_is_not_touched(run):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    with pytest.raises(UserError, match="holds a run already"):
        train(tiny(run / "policy"), run, make_env=ReachEnv)
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*")}


def test_a_policy_of_other_sizes_is_refused(tmp_path):
    policy = random_policy(tmp_path / "policy", obs_dim=5)
    with pytest.raises(UserError, match=r"\(5, 2, 4\), expected \(4, 2, 4\)"):
        train(tiny(policy), tmp_path / "run", make_env=ReachEnv)
    assert not (tmp_path / "run").exists()


def test_method_base_only_evaluates(tmp_path):
    policy = random_policy(tmp_path / "policy")
    config = tiny(policy, method="base")
    (summaries,) = train(config, tmp_path / "run", make_env=ReachEnv).values()
    assert [s.policy for s in summaries] == ["base/tanh_randn", "base/randn"]
    # each start noise has its own name, and none that of a steered policy
    names = {name.rpartition("/")[0] for name in scalars(tmp_path / "run")}
    assert {"eval_base/tanh_randn", "eval_base/randn"} <= names
    assert "eval" not in names
    # it can be resumed and loaded, though nothing has learned
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["0"]
    assert load_agent(tmp_path / "run").env_steps == 0
    for method in ("vgd", "dynvgd"):
        with pytest.raises(UserError, match=f"no critics, so that method '{method}'"):
            load_agent(tmp_path / "run", {"method": method})
