"""The published numbers in configs/, and what a configuration may not say."""

import collections
import importlib
import sys

import pytest
from ml_collections import ConfigDict

from configs import base
from dynvgd_jax.core import fields
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.steering import methods
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.training.check import check_train, field_rules
from dynvgd_jax.training.resume import CHANGEABLE

TRAIN_CONFIGS = [
    "can_ddim4",
    "can_ddim8",
    "square_ddim4",
    "square_ddim8",
    "lift_ddim8",
    "transport_ddim10",
]


PRESETS = ("quick", "hour", "gpu", "published_quick")


def load(name, preset=""):
    return importlib.import_module(f"configs.{name}").get_config(preset)


@pytest.mark.parametrize("name", TRAIN_CONFIGS)
@pytest.mark.parametrize("preset", ["", *PRESETS])
def test_every_configuration_is_valid(name, preset):
    config = load(name, preset)
    check_train(config)
    assert name == f"{config.task}_ddim{config.ddim_steps}"


# (lambda, last_k, lr, batch, UTD, gamma, envs, first rollouts in vector steps)
PUBLISHED = {
    "can_ddim4": (0.005, 3, 5e-4, 512, 20, 0.999, 8, 1501),
    "can_ddim8": (0.005, 3, 5e-4, 512, 20, 0.999, 8, 1501),
    "square_ddim4": (0.005, 2, 5e-4, 512, 20, 0.999, 8, 2001),
    "square_ddim8": (0.005, 3, 5e-4, 512, 20, 0.999, 8, 2001),
    "lift_ddim8": (0.005, 3, 3e-4, 512, 30, 0.99, 4, 1501),
    "transport_ddim10": (0.0008, 3, 3e-4, 1024, 20, 0.99, 4, 20001),
}


@pytest.mark.parametrize("name", TRAIN_CONFIGS)
def test_published_numbers(name):
    c = load(name)
    chunk_len = 8 if c.task == "transport" else 4
    control_steps_per_vector_step = c.num_envs * chunk_len
    assert PUBLISHED[name] == (
        c.guidance.scale,
        c.guidance.last_k,
        c.learning_rate,
        c.batch_size,
        c.utd,
        c.gamma,
        c.num_envs,
        c.first_rollout_env_steps / control_steps_per_vector_step,
    )
    assert c.eval.every_env_steps == 1000 * control_steps_per_vector_step
    assert (c.total_env_steps, c.replay.capacity) == (20_000_000, 10_000_000)
    assert (c.critic.num, c.critic.width, c.critic.depth) == (4, 2048, 3)
    assert (c.guidance.beta, c.guidance.c_local, c.guidance.c_global) == (1, 5, 100)
    assert c.guidance.time_anneal == "linear"  # what ran, not what the YAML says
    assert (c.target_n_step, c.end_at_success) == (1, False)
    assert not c.bootstrap_at_time_limit and c.critic.action_noise == 0
    assert c.critic.initial_value == 0
    assert c.explore.noises == () and c.explore.hold_chunks == (1,)
    assert c.guidance.candidates == 1 and c.guidance.critics == "current"
    assert (c.guidance.first_k, c.guidance.point) == (0, "decoded")


# (lr, batch, UTD, gamma, envs, first rollouts in vector steps, noise magnitude)
PUBLISHED_DSRL = {
    "can_ddim8_dsrl_na": (3e-4, 256, 20, 0.99, 4, 1501, 1.0),
    "can_ddim8_dsrl_sac": (3e-4, 256, 20, 0.99, 4, 1501, 1.5),
    "square_ddim8_dsrl_na": (3e-4, 256, 20, 0.999, 4, 2001, 1.0),
    "square_ddim8_dsrl_sac": (3e-4, 256, 20, 0.999, 4, 2001, 1.5),
}


@pytest.mark.parametrize("name", PUBLISHED_DSRL)
def test_published_numbers_of_dsrl(name):
    c = load(name)
    check_train(c)
    check_train(load(name, "quick"))
    assert name == f"{c.task}_ddim{c.ddim_steps}_{c.method}"
    assert PUBLISHED_DSRL[name] == (
        c.learning_rate,
        c.batch_size,
        c.utd,
        c.gamma,
        c.num_envs,
        c.first_rollout_env_steps / (c.num_envs * 4),
        c.dsrl.noise_magnitude,
    )
    assert (c.critic.num, c.critic.width, c.critic.depth) == (2, 2048, 3)
    assert (c.target_reduce, c.target_clip, c.target_tau) == ("min", 0, 0.005)
    d = c.dsrl
    assert (d.actor_width, d.actor_depth) == (2048, 3)
    assert (d.target_entropy, d.initial_entropy_coef) == (0, 1)
    assert (d.distill_steps, d.distill_noise) == (10, "randn")
    assert (d.first_noise, d.deterministic_eval) == ("uniform", False)


def test_published_quick_changes_sizes_but_not_the_method():
    full, quick = load("square_ddim8"), load("square_ddim8", "published_quick")
    assert quick.total_env_steps == 128_000 and quick.critic.width == 256
    assert quick.guidance == full.guidance and quick.ddim_steps == full.ddim_steps
    assert quick.explore == full.explore and quick.target_n_step == 1


def test_gpu_is_quick_at_another_size():
    quick, gpu = load("square_ddim8", "quick"), load("square_ddim8", "gpu")
    names = fields.field_names(quick)
    differ = {
        n for n in names if fields.get_field(quick, n) != fields.get_field(gpu, n)
    }
    periods = {"eval.every_env_steps", "eval.num_envs", "checkpoint.every_env_steps"}
    sizes = {"total_env_steps", "utd", "critic.width", "precision"}
    assert differ == sizes | periods
    assert (gpu.total_env_steps, gpu.critic.width, gpu.utd) == (200_000, 1024, 20)
    assert gpu.total_env_steps % (gpu.num_envs * 4) == 0  # of whole vector steps


@pytest.mark.parametrize("name", TRAIN_CONFIGS)
def test_hour_goes_on_where_quick_ends(name):
    """What differs may be changed when a run is resumed."""
    quick, hour = load(name, "quick"), load(name, "hour")
    names = fields.field_names(quick)
    differ = [
        n for n in names if fields.get_field(quick, n) != fields.get_field(hour, n)
    ]
    assert "total_env_steps" in differ
    assert all(n.startswith(CHANGEABLE) for n in differ), differ
    assert hour.total_env_steps > quick.total_env_steps


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("can_ddim8_dsrl_na", {}),
        ("can_ddim8_dsrl_sac", {"guidance.first_k": 1}),
        ("can_golden_ticket", {}),
        ("can_ddim8", {"method": "base"}),
        ("can_ddim8", {"guidance.scale": 0.0}),
    ],
)
def test_who_takes_no_guided_steps_may_have_as_few_as_they_like(name, changes):
    config = load(name).unlock()
    config.update_from_flattened_dict({"ddim_steps": 2} | changes)
    assert config.guidance.last_k == 3
    check_train(config)
    policy = load_policy("builtin:can")
    assert build_method(config, policy).act is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "stack"}, r"config.task: found 'stack', expected one of lift, can"),
        ({"guidance.time_anneal": "of"}, "did you mean 'off'"),
        (
            {"ddim_steps": 0},
            "config.ddim_steps: found 0, expected a number from 1 to 100",
        ),
        ({"ddim_steps": 2}, "last_k: found 3, expected at most ddim_steps = 2"),
        ({"gamma": 1.01}, "config.gamma: found 1.01"),
        ({"gamma": float("nan")}, "config.gamma: found nan"),
        ({"num_envs": 0}, "config.num_envs"),
        ({"explore.noises": ("gauss",)}, "explore.noises: found 'gauss'"),
        ({"explore.hold_chunks": ()}, "hold_chunks: found none"),
        ({"explore.hold_chunks": (1, 0)}, "hold_chunks: found 0, expected a number"),
        ({"explore.hold_chunks": ("a",)}, "hold_chunks: found 'a', expected a number"),
        ({"guidance.first_k": 5}, "first_k: found 5, expected 0 .* or 6 to 8"),
        ({"guidance.last_k": 0, "guidance.first_k": 9}, "found 9, expected 0 .* 1 to"),
        ({"guidance.point": "z"}, "guidance.point: found 'z'"),
        ({"guidance.candidates": 0}, "candidates: found 0"),
        ({"critic.action_noise": -1.0}, "action_noise: found -1.0"),
        ({"critic.initial_value": float("inf")}, "initial_value: found inf"),
        ({"target_n_step": 0}, "target_n_step: found 0, expected a number from 1"),
        (
            {"overlap": True, "first_rollout_env_steps": 0},
            "overlap: found True without first rollouts",
        ),
        ({"method": "golden"}, "did you mean 'golden_ticket'"),
        ({"golden_ticket.num_tickets": 0}, "num_tickets: found 0, expected a number"),
        ({"edit.max_step": -0.1}, "edit.max_step: found -0.1, expected a number from"),
        (
            {"dsrl.noise_magnitude": 0.0},
            "noise_magnitude: found 0.0, expected a",
        ),
        ({"dsrl.distill_steps": 0}, "distill_steps: found 0, expected a number from 1"),
        ({"dsrl.distill_noise": "rand"}, "did you mean 'randn'"),
        ({"dsrl.first_noise": "uniforn"}, "did you mean 'uniform'"),
        ({"dsrl.initial_entropy_coef": 0.0}, "initial_entropy_coef: found 0.0, expec"),
        ({"method": "dsrl"}, "did you mean 'dsrl_na'"),
        ({"critic.kind": "means"}, "critic.kind: found 'means', expected one of mean"),
        ({"base_policy": "builtin:sqare"}, "no built-in policy 'sqare'"),
        ({"guidance.point": "estimat"}, "did you mean 'estimate'"),
        ({"total_env_steps": 2**31}, "config.total_env_steps: found 2147483648"),
        ({"eval.noises": ()}, "eval.noises: found none, expected at least 1"),
        ({"eval.noises": ("gauss",)}, "config.eval.noises: found 'gauss'"),
        ({"eval.noises": ("randn",)}, "same noise"),
        ({"total_env_steps": 1000}, "more than first_rollout_env_steps = 48032"),
        ({"task": "gym:Ant-v5"}, "no built-in policy 'gym:Ant-v5'"),
        ({"base_policy": "/nowhere"}, "no policy folder at /nowhere"),
        (
            {"base_policy": "/"},
            "/ is no complete policy folder: policy.json is missing",
        ),
        (
            {"replay.offline_dataset": "x.npz", "replay.offline_share": 0.0},
            "offline_share: found 0.0, expected at least",
        ),
        ({"seed": "a"}, "config.seed: found 'a', expected int"),
        ({"guidance.lambda": 1.0}, "nearest is config.guidance."),
    ],
)
def test_nonsense_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        check_train(fields.set_fields(load("can_ddim8"), changes))


def test_host_memory_holds_windows_too():
    changes = {"target_n_step": 5, "replay.memory": "host"}
    check_train(fields.set_fields(load("can_ddim8"), changes))


def test_every_field_has_exactly_one_rule():
    """It stands beside the code that reads the field, and nowhere else."""
    rules = field_rules()  # which imports whatever has any
    counts = collections.Counter(["task", "method"])  # by the tables of their names
    for name, module in sys.modules.items():
        # that of the methods holds those of the files it is made of; the fields of
        # comparisons and of demonstrators are no run's
        others = ("dynvgd_jax.compare.", "dynvgd_jax.demos.")
        if name.startswith(others) or module is methods:
            continue
        if name.startswith("dynvgd_jax."):
            counts.update(getattr(module, "FIELDS", {}).keys())
    assert {name: n for name, n in counts.items() if n > 1} == {}
    names = fields.field_names(base.get_config())
    assert sorted(counts) == sorted(names) == sorted(rules)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["critic"].pop("width"), "config.critic.width: missing"),
        (lambda c: c.pop("guidance"), "config.guidance.scale: missing"),
        (lambda c: c.update(critic=3), "config.critic.kind: missing"),
        (lambda c: c.update(gamma="high"), "config.gamma: found 'high'"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(spoil, message):
    content = load("can_ddim8").to_dict()
    spoil(content)
    with pytest.raises(UserError, match=message):
        check_train(ConfigDict(content))


def test_names_of_choices_are_those_of_the_code():
    from dynvgd_jax.core.precision import PRECISIONS
    from dynvgd_jax.envs.base import task_names
    from dynvgd_jax.steering.critics.base import RANDOM_PAIR, REDUCERS
    from dynvgd_jax.steering.critics.kinds import CRITICS
    from dynvgd_jax.steering.dsrl_na import DISTILL_NOISES
    from dynvgd_jax.steering.guidance import ANNEALS, POINTS
    from dynvgd_jax.steering.methods import METHODS
    from dynvgd_jax.steering.noise import START_NOISES
    from dynvgd_jax.steering.noise_acting import FIRST_NOISES
    from dynvgd_jax.steering.proposals import BACKUPS, DTYPES
    from dynvgd_jax.steering.vgd import GUIDING_CRITICS
    from dynvgd_jax.training.replay_memory import MEMORIES

    choices = {
        "task": task_names(),
        "method": METHODS,
        "critic.kind": CRITICS,
        "replay.memory": MEMORIES,
        "guidance.time_anneal": ANNEALS,
        "precision": PRECISIONS,
        "guidance.reduce": REDUCERS,
        "target_reduce": (*REDUCERS, RANDOM_PAIR),
        "target_backup": BACKUPS,
        "proposals.dtype": DTYPES,
        "acting_noise": START_NOISES,
        "guidance.point": POINTS,
        "guidance.critics": GUIDING_CRITICS,
        "dsrl.first_noise": FIRST_NOISES,
        "dsrl.distill_noise": DISTILL_NOISES,
    }
    for name, expected in choices.items():
        with pytest.raises(UserError) as caught:
            field_rules()[name](name, "no such one")
        listed = str(caught.value).partition("expected one of ")[2]
        assert set(listed.split(";")[0].split(", ")) == set(expected), name
        for choice in expected:
            field_rules()[name](name, choice)
    for name in ("explore.noises", "eval.noises"):
        field_rules()[name](name, tuple(START_NOISES))
