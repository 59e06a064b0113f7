"""Every field of the configuration, moved alone, changes what it should and no more.

A short run in a scripted environment is taken apart into pieces, in the order of their
causes (tests/support/wiring.py). `FIELDS` says for each field which of them it changes
directly. These have to change; of the others only those may that follow from them. So a
field that reaches nothing is seen, and one that is taken for another too.
"""

import contextlib
import functools
import io
import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from configs import base
from dynvgd_jax import load_agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import field_names
from dynvgd_jax.steering.critics import kinds
from dynvgd_jax.training.loop import train
from tests.support import wiring
from tests.support.scripted import ScriptedEnv
from tests.support.wiring import VECTOR_STEP, reached, wired

DECODES = {"explore", "act1", "guide1", "call1", "base", "steered"}
CRITICS = {"act1", "guide1", "call1", "critics1", "targets1"}  # their initial values
LATER = {"act2", "guide2", "call2", "steered"}  # of guidance after the first update
GUIDES = {"act1", "guide1", "call1"} | LATER
EVALUATED = {"plan", "points", "scores", "base", "steered"}


class Moved(NamedTuple):
    """A field's other value and the pieces that it changes directly."""

    value: Any
    changes: set[str] = set()  # noqa: RUF012
    beside: dict[str, Any] = {}  # noqa: RUF012, fields that both runs have moved


ALL_STEPS = {"guidance.last_k": 0}
CANDIDATES = {"guidance.candidates": 4}
KEPT = CANDIDATES | {"target_backup": "max"}
CALL = {"call1", "critics1"}
EDIT = KEPT | {"method": "edit", "edit.width": 4, "edit.depth": 1}
QUANTILE, HL_GAUSS = {"critic.kind": "quantile"}, {"critic.kind": "hl_gauss"}
OFFLINE = {"replay.offline_dataset": "offline.npz"}
ELSEWHERE = "not a piece of these runs, see "
DSRL = ELSEWHERE + "tests/steering/test_dsrl_actor.py"

FIELDS: dict[str, list[Moved] | str] = {
    "job": ELSEWHERE + "tests/test_launch.py",
    "task": ELSEWHERE + "test_task_and_environments_are_robosuites",
    "method": [Moved("vgd", GUIDES | {"plan"})],
    "base_policy": [Moved("other", DECODES)],
    "policy_kind": ELSEWHERE + "tests/training/test_flow_runs.py",
    "ddim_steps": [Moved(1, DECODES)],
    "seed": [Moved(10, CRITICS | {"episodes", "explore"})],
    "num_seeds": ELSEWHERE + "test_seeds_side_by_side_are_those_alone",
    "precision": [Moved("bfloat16", DECODES)],
    "total_env_steps": [
        Moved(
            5 * VECTOR_STEP, {"stored", "train", "critics2", "files", "points", "plan"}
        )
    ],
    "num_envs": [
        Moved(1, {"episodes", "explore", "act1", "guide1", "points", "files"})
    ],
    "first_rollout_env_steps": [
        Moved(VECTOR_STEP, {"explore", "act1", "guide1", "call1", "points", "files"})
    ],
    "explore.noises": [Moved(("randn",), {"explore"})],
    "explore.hold_chunks": [Moved((2,), {"explore"})],
    "acting_noise": [
        Moved(
            "randn",
            {"explore", "act1", "guide1", "steered", "plan"},
            {"eval.noises": ("tanh_randn", "randn")},
        )
    ],
    "end_at_success": [Moved(True, {"episodes", "stored", "train", "points"})],
    "bootstrap_at_time_limit": [Moved(True, {"stored", "call1"})],
    "reward_offset": [Moved(0.5, {"stored", "call1", "scores", "train"})],
    "utd": [Moved(2, {"call1", "critics1"})],
    "overlap": [Moved(False, {"call1"})],
    "batch_size": [Moved(9, {"call1", "critics1"})],
    "learning_rate": [Moved(0.02, {"critics1"})],
    "gamma": [Moved(0.5, {"call1", "critics1"})],
    "target_tau": [Moved(0.5, {"targets1"})],
    "target_clip": [Moved(0.5, {"call1", "critics1"})],
    "target_reduce": [Moved("mean", {"call1", "critics1"})],
    "target_backup": [Moved("max", CALL, CANDIDATES), Moved("mean", CALL, CANDIDATES)],
    "target_proposals": [Moved(1, CALL, KEPT | {"target_backup": "mean"})],
    "target_n_step": [Moved(2, {"call1", "critics1"})],
    "critic.kind": [Moved("quantile", CRITICS), Moved("hl_gauss", CRITICS)],
    "critic.num": [Moved(3, CRITICS | {"points"})],
    # of one critic each: how far they disagree is not told
    "critic.groups": [Moved(2, {"call1", "critics1", "points"})],
    "critic.width": [Moved(6, CRITICS)],
    "critic.depth": [Moved(2, CRITICS)],
    "critic.action_noise": [
        Moved(0.5, {"call1", "critics1"}),
        Moved(0.5, {"call1", "critics1"}, {"replay.memory": "host"}),
    ],
    "critic.initial_value": [
        Moved(-3.0, {"guide1", "call1", "critics1", "targets1"}),
        Moved(-3.0, CRITICS, HL_GAUSS),
    ],
    "critic.quantiles": [Moved(3, CRITICS, QUANTILE)],
    "critic.kappa": [Moved(3.0, {"call1", "critics1"}, QUANTILE)],
    "critic.bins": [Moved(10, CRITICS, HL_GAUSS)],
    "critic.v_min": [Moved(-30.0, CRITICS, HL_GAUSS | {"critic.initial_value": -3.0})],
    "critic.v_max": [Moved(8.0, CRITICS, HL_GAUSS)],
    "initial_critics": [
        Moved("run", CRITICS, {"checkpoint.every_env_steps": 3 * VECTOR_STEP})
    ],
    "guidance.scale": [Moved(3.0, GUIDES)],
    "guidance.last_k": [Moved(0, GUIDES)],
    "guidance.first_k": [Moved(1, GUIDES, ALL_STEPS)],
    "guidance.point": [Moved("estimate", GUIDES, ALL_STEPS)],
    "guidance.candidates": [
        Moved(4, {"act1", "guide1", "act2", "guide2", "points", "steered"})
    ],
    "guidance.time_anneal": [Moved("off", GUIDES, ALL_STEPS)],
    "guidance.reduce": [Moved("mean", GUIDES)],
    "guidance.critics": [Moved("target", LATER)],
    "guidance.beta": [Moved(2.0, GUIDES)],
    "guidance.c_local": [Moved(3.0, GUIDES)],
    "guidance.c_global": [Moved(3.0, LATER)],  # the first TD error is 0
    "guidance.warmup_updates": [Moved(4, GUIDES)],
    # Acting is 2 vector steps after the start, and the first training call 3.
    "guidance.weight_warmup_env_steps": [
        Moved(3 * VECTOR_STEP, {"act1", "guide1"}),
        Moved(3 * VECTOR_STEP + 1, {"act1", "guide1", "call1"}),
    ],
    "proposals.noises": [
        Moved(("tanh_randn", "randn"), CALL | {"act1", "guide1", "guide2"}, KEPT),
    ],
    "proposals.dtype": ELSEWHERE + "test_proposing.py",
    # an edit is nothing before the first training call, and costs nothing in it
    "edit.max_step": [Moved(0.5, {"critics1"}, EDIT)],
    "edit.penalty": [Moved(5.0, {"call2"}, EDIT)],
    "edit.width": [Moved(6, {"critics1"}, EDIT)],
    "edit.depth": [Moved(2, {"critics1"}, EDIT)],
    "golden_ticket.num_tickets": ELSEWHERE + "test_wiring_by_hand.py",
    "dsrl.noise_magnitude": DSRL,
    "dsrl.first_noise": DSRL,
    "dsrl.actor_width": DSRL,
    "dsrl.actor_depth": DSRL,
    "dsrl.target_entropy": DSRL,
    "dsrl.initial_entropy_coef": DSRL,
    "dsrl.deterministic_eval": DSRL,
    "dsrl.distill_steps": DSRL,
    "dsrl.distill_noise": DSRL,
    "replay.capacity": [Moved(4, {"stored", "call2"})],
    "replay.memory": [Moved("host", {"call1", "critics1"})],
    "replay.offline_dataset": [Moved("offline.npz", {"call1", "critics1"})],
    "replay.offline_filter_key": ELSEWHERE + "test_a_filter_key_reaches_the_file",
    "replay.offline_share": [Moved(0.25, {"call1", "critics1"}, OFFLINE)],
    "eval.episodes": [Moved(2, EVALUATED - {"points"})],
    "eval.every_env_steps": [
        Moved(3 * VECTOR_STEP, {"plan", "points", "scores", "steered"})
    ],
    "eval.num_envs": [Moved(1, {"eval_envs"})],  # an episode is the same in each
    "eval.seed": [Moved(3, {"plan", "scores", "base", "steered"})],
    "eval.noises": [
        Moved(("tanh_randn", "randn"), {"plan", "points", "scores", "base"})
    ],
    "checkpoint.every_env_steps": [
        Moved(VECTOR_STEP, {"files"}, {"total_env_steps": 5 * VECTOR_STEP})
    ],
    "log.every_env_steps": [Moved(2 * VECTOR_STEP, {"points"})],
    "env.engine": ELSEWHERE + "test_task_and_environments_are_robosuites",
    "env.num_threads": ELSEWHERE + "test_task_and_environments_are_robosuites",
}
MOVED = [
    pytest.param(
        field,
        moved,
        id=f"{field}={moved.value}",
    )
    for field, rows in FIELDS.items()
    if not isinstance(rows, str)
    for moved in rows
]


class Runs:
    """Runs of this module, each configuration once."""

    def __init__(self, folder):
        self.folder = folder
        self.policy = wiring.save_toy_policy(folder / "policy")
        wiring.save_toy_policy(folder / "other", seed=1)
        _save_offline(folder / "offline.npz")
        self._found, self._numbers = {}, itertools.count()

    def config(self, changes):
        """The short run's configuration; names of files here become paths."""
        files = {
            field: str(self.folder / value)
            for field, value in changes.items()
            if value in ("other", "offline.npz", "run")
        }
        return wired(self.policy, **changes | files)

    def __call__(self, **changes):
        """What is to be seen of the run with these fields moved."""
        key = tuple(sorted(changes.items()))
        if key not in self._found:
            name = f"run{next(self._numbers)}" if changes else "run"
            self._found[key] = _evidence(self.config(changes), self.folder / name)
        return self._found[key]


def _evidence(config, folder):
    with contextlib.redirect_stdout(io.StringIO()):
        (training,), evaluation = wiring.run(config, folder)
    return wiring.evidence(config, folder, training, evaluation)


def _save_offline(path):
    rng = np.random.default_rng(0)
    np.savez(
        path,
        states=rng.uniform(-1, 1, (5, 4)),
        states_next=rng.uniform(-1, 1, (5, 4)),
        actions=rng.uniform(-1, 1, (5, 4, 2)),
        rewards=rng.uniform(-4, -3.5, 5),
        terminals=np.zeros(5, bool),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = Runs(tmp_path_factory.mktemp("runs"))
    found()
    return found


def test_every_field_has_an_entry():
    assert sorted(FIELDS) == sorted(field_names(base.get_config()))


def test_both_kinds_of_episodes_are_among_them(runs):
    found = runs()
    any_step, whole_chunk = found["scores"][:, :2].T
    assert 0 < whole_chunk.mean() < any_step.mean()


@pytest.mark.slow
@pytest.mark.parametrize(("field", "moved"), MOVED)
def test_a_field_changes_this_and_no_more(runs, field, moved):
    before = runs(**moved.beside)
    after = runs(**moved.beside | {field: moved.value})
    changed = wiring.differences(before, after)
    assert moved.changes - changed == set(), "reaches too little"
    assert changed - reached(moved.changes) == set(), "reaches too much"


def test_seeds_side_by_side_are_those_alone(runs):
    config, folder = runs.config({"num_seeds": 2}), runs.folder / "seeds"
    with contextlib.redirect_stdout(io.StringIO()):
        training, evaluation = wiring.run(config, folder)
    episodes = next(iter(wiring.eval_seeds(folder / "seed9").values()))
    # the base policy is evaluated for both, each critic for itself
    _, *steered = wiring.evaluations_played(evaluation, 3 * [episodes])
    for number, seed in enumerate((9, 10)):
        alone = runs(**({"seed": 10} if seed == 10 else {}))
        found = wiring.evidence(config, folder / f"seed{seed}", training[number])
        found["steered"] = steered[number][None]
        assert wiring.differences(found, alone) == set()


def test_another_kind_of_critic_learns(runs, monkeypatch):
    def wider(config, *sizes):
        config = config.copy_and_resolve_references()
        config.critic.width = 6
        return kinds.make_mean_critic(config, *sizes)

    monkeypatch.setitem(kinds.CRITICS, "wider", wider)
    config, other = runs.config({}), runs(**{"critic.width": 6})
    with config.unlocked():
        config.critic.kind = "wider"
    found = _evidence(config, runs.folder / "kind")
    assert wiring.differences(found, other) == set()


def test_a_filter_key_reaches_the_file(runs):
    changes = {"replay.offline_dataset": "offline.npz"}
    config = runs.config(changes | {"replay.offline_filter_key": "best"})
    with pytest.raises(UserError, match="found the filter key 'best'"):
        train(config, runs.folder / "filter", make_env=ScriptedEnv)


@pytest.mark.slow
def test_programs_belong_to_values_not_to_objects_or_files(runs):
    """One configuration object and one policy folder, changed between two runs."""
    config = runs.config({}).copy_and_resolve_references()
    config.base_policy = str(runs.folder / "changing")
    for name, gamma, seed in (
        ("gamma0", 0.9, 0),
        ("gamma1", 0.5, 0),
        ("policy", 0.5, 1),
    ):
        shutil.rmtree(config.base_policy, ignore_errors=True)
        wiring.save_toy_policy(Path(config.base_policy), seed)
        config.gamma = gamma
        found = _evidence(config, runs.folder / name)
        changes = {"gamma": gamma} if gamma != 0.9 else {}
        changes |= {"base_policy": "other"} if seed else {}
        assert wiring.differences(found, runs(**changes)) == set()


AGENT_FIELDS = {
    "method": "vgd",
    "ddim_steps": 1,
    "precision": "bfloat16",
    "guidance.scale": 3.0,
    "guidance.last_k": 0,
    "guidance.first_k": 1,
    "guidance.point": "estimate",
    "guidance.time_anneal": "off",
    "guidance.reduce": "mean",
    "guidance.critics": "target",
    "guidance.beta": 2.0,
    "guidance.c_local": 3.0,
    "guidance.c_global": 3.0,
}


@pytest.fixture(scope="module")
def acts(runs):
    """Field -> chunks of an agent that is loaded with it; None is as it was saved."""
    rng = np.random.default_rng(0)
    obs, noise = rng.uniform(-1, 1, (5, 4)), rng.normal(size=(5, 4, 2))

    @functools.cache
    def acts(field, all_steps):
        overrides = ALL_STEPS if all_steps else {}
        if field is not None:
            overrides = overrides | {field: AGENT_FIELDS[field]}
        agent = load_agent(runs.folder / "run", overrides)
        return agent.act(obs, noise, None if field == "method" else 2.0)

    return acts


@pytest.mark.slow
@pytest.mark.parametrize("field", AGENT_FIELDS)
def test_an_override_reaches_a_loaded_agent(acts, field):
    all_steps = field in ("guidance.first_k", "guidance.point", "guidance.time_anneal")
    before, after = acts(None, all_steps), acts(field, all_steps)
    assert np.abs(after - before).max() > 1e-4


@pytest.mark.slow
def test_task_and_environments_are_robosuites(tmp_path, monkeypatch):
    """Told from the policy's task, and from the threads; stopped before it plays."""
    workers = []
    original = ThreadPoolExecutor.__init__

    def spy(self, max_workers=None, *arguments, **options):
        workers.append(max_workers)
        original(self, max_workers, *arguments, **options)

    monkeypatch.setattr(ThreadPoolExecutor, "__init__", spy)
    for engine, is_threaded in (("compiled", True), ("robosuite", False)):
        config = base.get_config()
        config.task, config.method = "lift", "base"
        config.num_envs = config.eval.episodes = 1
        config.env.engine, config.env.num_threads = engine, 37
        workers.clear()
        train(config.lock(), tmp_path / engine, stop=lambda: True)
        assert (37 in workers) == is_threaded  # robosuite's own engine has one
        described = (tmp_path / engine / "policy" / "policy.json").read_text()
        assert json.loads(described)["task"] == "lift"
