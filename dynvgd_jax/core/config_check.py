"""Checks a run's configuration before anything heavy is imported.

Every message names the field as one writes it on the command line, what was found and
what was expected. The names of choices stand here once more, as text, because their
tables live beside JAX or robosuite code; a test keeps both sides equal.
"""

import difflib
import numbers
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError

CHOICES = {
    "job": ("train", "pretrain", "demos"),
    "task": ("lift", "can", "square", "transport"),
    "method": ("dynvgd", "vgd", "base"),
    "acting_noise": ("tanh_randn", "randn"),
    "precision": ("float32", "tf32", "bfloat16"),
    "target_reduce": ("min", "mean"),
    "guidance.time_anneal": ("linear", "cosine", "off"),
    "guidance.reduce": ("min", "mean"),
    "guidance.critics": ("current", "target"),
    "guidance.point": ("decoded", "estimate"),
    "replay.memory": ("device", "host"),
    "env.engine": ("compiled", "exact", "robosuite"),
}
TASKS_WITH_POLICY = ("lift", "can", "square")

_SEED_END = 2**31 - 1
COUNT_END = 2**31 - 1  # counters on the device are int32

# Field -> (least, greatest) value, both allowed.
_RANGES = {
    "ddim_steps": (1, 100),
    "seed": (0, _SEED_END),
    "total_env_steps": (1, COUNT_END),
    "num_envs": (1, 4096),
    "num_seeds": (1, 1024),
    "first_rollout_env_steps": (0, COUNT_END),
    "reward_offset": (-1e6, 1e6),
    "utd": (1, 100_000),
    "batch_size": (1, 1_000_000),
    "learning_rate": (0.0, 1.0),
    "gamma": (0.0, 1.0),
    "target_tau": (0.0, 1.0),
    "target_clip": (0.0, 1e9),
    "target_n_step": (1, 1000),
    "critic.num": (1, 1024),
    "critic.width": (1, 65536),
    "critic.depth": (1, 64),
    "critic.action_noise": (0.0, 10.0),
    "critic.initial_value": (-1e6, 1e6),
    "guidance.scale": (-1e6, 1e6),
    "guidance.last_k": (0, 100),
    "guidance.first_k": (0, 100),
    "guidance.candidates": (1, 1024),
    "guidance.beta": (0.0, 1e6),
    "guidance.c_local": (1e-6, 1e9),
    "guidance.c_global": (1e-6, 1e9),
    "guidance.warmup_updates": (0, COUNT_END),
    "guidance.weight_warmup_env_steps": (0, COUNT_END),
    "replay.capacity": (1, COUNT_END),
    "replay.offline_share": (0.0, 1.0),
    "eval.episodes": (1, 1_000_000),
    "eval.every_env_steps": (1, COUNT_END),
    "eval.num_envs": (1, 4096),
    "eval.seed": (0, _SEED_END),
    "checkpoint.every_env_steps": (1, COUNT_END),
    "log.every_env_steps": (1, COUNT_END),
    "env.num_threads": (0, 4096),
}


def check_train(config: ConfigDict) -> None:
    """Raises UserError where a training configuration makes no sense."""
    for field, names in CHOICES.items():
        check_choice(field, get_field(config, field), names)
    for field, (least, greatest) in _RANGES.items():
        check_range(field, get_field(config, field), least, greatest)
    if not config.eval.noises:
        raise UserError("config.eval.noises: found no noise, expected at least one")
    for noise in config.eval.noises:
        check_choice("eval.noises", noise, CHOICES["acting_noise"])
    if config.acting_noise not in config.eval.noises:
        raise UserError(
            f"config.eval.noises: found {tuple(config.eval.noises)}, expected it to "
            f"hold acting_noise '{config.acting_noise}', so that base and steered "
            "policy are compared with the same noise"
        )
    for noise in config.explore.noises:
        check_choice("explore.noises", noise, CHOICES["acting_noise"])
    if not config.explore.hold_chunks:
        raise UserError("config.explore.hold_chunks: found none, expected at least one")
    for hold in config.explore.hold_chunks:
        check_range("explore.hold_chunks", hold, 1, 100_000)
    if config.guidance.last_k > config.ddim_steps:
        raise UserError(
            f"config.guidance.last_k: found {config.guidance.last_k}, expected at most "
            f"ddim_steps = {config.ddim_steps} (0 guides every step)"
        )
    last_k, first_k = config.guidance.last_k, config.guidance.first_k
    start = config.ddim_steps - last_k if last_k else 0
    if first_k and not start < first_k <= config.ddim_steps:
        raise UserError(
            f"config.guidance.first_k: found {first_k}, expected 0 (no bound) or "
            f"{start + 1} to {config.ddim_steps}, because last_k = {last_k} guides "
            f"from step {start} on"
        )
    if config.first_rollout_env_steps >= config.total_env_steps:
        raise UserError(
            f"config.total_env_steps: found {config.total_env_steps}, expected more "
            f"than first_rollout_env_steps = {config.first_rollout_env_steps}; raise "
            "the one or lower the other"
        )
    if config.seed + config.num_seeds - 1 > _SEED_END:
        raise UserError(
            f"config.seed: found {config.seed}, expected at most "
            f"{_SEED_END + 1 - config.num_seeds} for num_seeds = {config.num_seeds}"
        )
    if config.replay.offline_dataset and not num_offline(config):
        raise UserError(
            f"config.replay.offline_share: found {config.replay.offline_share}, "
            f"expected at least 1 / (2 batch_size) = {0.5 / config.batch_size:g}, so "
            "that replay.offline_dataset is used"
        )
    if config.replay.memory == "host" and config.target_n_step > 1:
        raise UserError(
            f"config.target_n_step: found {config.target_n_step}, expected 1 with "
            "replay.memory = 'host', which draws single transitions; use 'device'"
        )
    _check_base_policy(config)


def own_envs(num_envs: int, num_processes: int) -> int:
    """Returns how many of a seed's training environments each process steps.

    Raises:
      UserError: they cannot be shared equally.
    """
    if num_envs % num_processes:
        raise UserError(
            f"config.num_envs: found {num_envs}, expected a multiple of "
            f"{num_processes}, the number of processes that share them"
        )
    return num_envs // num_processes


def num_offline(config: ConfigDict) -> int:
    """Returns how many transitions of each batch are the offline data set's."""
    if not config.replay.offline_dataset:
        return 0
    return round(config.replay.offline_share * config.batch_size)


def check_choice(field: str, value: Any, names: Iterable[str]) -> None:
    """Raises UserError unless `value` is one of `names`; says which one is nearest."""
    names = tuple(names)
    if value not in names:
        raise UserError(
            f"config.{field}: found {value!r}, expected one of {', '.join(names)}"
            f"{did_you_mean(str(value), names)}"
        )


def check_range(field: str, value: float, least: float, greatest: float) -> None:
    """Raises UserError unless `value` is a number from `least` to `greatest`."""
    if not isinstance(value, numbers.Real) or not least <= value <= greatest:
        raise UserError(
            f"config.{field}: found {value!r}, expected a number from {least} to "
            f"{greatest}"
        )


def get_field(config: ConfigDict, field: str) -> Any:
    """Returns the value at a dotted name such as `critic.width`.

    Raises:
      UserError: the configuration, read from a file perhaps, has no such field.
    """
    for name in field.split("."):
        if not isinstance(config, ConfigDict) or name not in config:
            raise UserError(f"config.{field}: missing, expected a value")
        config = config[name]
    return config


def field_names(config: ConfigDict) -> list[str]:
    """The dotted names of all fields, groups left out."""
    names = []
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            names += [f"{key}.{name}" for name in field_names(value)]
        else:
            names.append(key)
    return names


def check_field_name(config: ConfigDict, field: str) -> None:
    """Raises UserError unless the dotted name is a field of `config`."""
    names = field_names(config)
    if field in names:
        return
    inside = [name for name in names if name.startswith(field + ".")]
    if inside:
        raise UserError(
            f"config.{field}: is a group of fields, expected one of them: "
            + ", ".join(f"config.{name}" for name in inside)
        )
    raise UserError(
        f"config.{field}: no such field; the nearest is config.{_nearest(field, names)}"
    )


def set_fields(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
    """Returns `config` with fields replaced by dotted name, as on the command line.

    Raises:
      UserError: a name is unknown, or a value has the wrong type.
    """
    for field, value in values.items():
        check_field_name(config, field)
        *groups, leaf = field.split(".")
        holder = get_field(config, ".".join(groups)) if groups else config
        try:
            holder[leaf] = value
        except TypeError as error:
            expected = type(holder[leaf]).__name__
            raise UserError(
                f"config.{field}: found {value!r}, expected {expected}"
            ) from error
    return config


def apply_preset(
    config: ConfigDict, preset: str, presets: dict[str, Callable[[ConfigDict], None]]
) -> ConfigDict:
    """Returns `config` after the preset named behind the colon of `--config`.

    Raises:
      UserError: no preset has that name.
    """
    if preset:
        if preset not in presets:
            raise UserError(
                f"unknown preset {preset!r}, expected one of {', '.join(presets)}"
                f"{did_you_mean(preset, presets)}"
            )
        presets[preset](config)
    return config


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Returns `; did you mean 'name'?` or nothing where no name is near."""
    near = difflib.get_close_matches(word, list(names), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _nearest(field: str, names: list[str]) -> str:
    """The most similar name: as a whole, behind the last dot, or by initials (lr)."""

    def similarity(name: str) -> float:
        if field == "".join(part[:1] for part in re.split(r"[._]", name)):
            return 1.0
        whole = difflib.SequenceMatcher(None, field, name).ratio()
        last = field.rpartition(".")[2], name.rpartition(".")[2]
        return max(whole, 0.99 * difflib.SequenceMatcher(None, *last).ratio())

    return max(names, key=similarity)


def _check_base_policy(config: ConfigDict) -> None:
    wanted = "expected a folder written by configs/<task>_pretrain.py"
    if config.base_policy == "builtin":
        if config.task not in TASKS_WITH_POLICY:
            raise UserError(
                f"config.base_policy: found 'builtin', but there is no built-in "
                f"{config.task} policy; give a folder that holds one: "
                "--config.base_policy=FOLDER"
            )
    elif not Path(config.base_policy).is_dir():
        raise UserError(
            f"config.base_policy: no folder {config.base_policy!r}, {wanted}, "
            "or 'builtin'"
        )
    elif not (Path(config.base_policy) / "policy.json").is_file():
        raise UserError(
            f"config.base_policy: {config.base_policy!r} holds no policy.json, {wanted}"
        )
