"""Whether a training configuration makes sense, before anything is opened.

Every field has one rule, beside the code that reads it; here they come together, with
those of the loop itself and what must hold between fields of several wings.
"""

from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import (
    SEED_END,
    Rule,
    anything,
    check_choice,
    check_fields,
    count,
    number,
    one_of,
)
from dynvgd_jax.diffusion import policy_files
from dynvgd_jax.diffusion.kinds import KINDS
from dynvgd_jax.envs import base as envs
from dynvgd_jax.evaluate import play
from dynvgd_jax.steering import methods
from dynvgd_jax.steering.guidance import guidance_options, guided_steps
from dynvgd_jax.steering.vgd import GUIDED
from dynvgd_jax.training import replay_memory

# Of what the loop itself reads.
FIELDS = {
    "job": one_of(("train",)),
    "seed": number(0, SEED_END),
    "num_seeds": number(1, 1024),
    "total_env_steps": count(1),
    "num_envs": number(1, 4096),
    "first_rollout_env_steps": count(),
    "end_at_success": anything,
    "bootstrap_at_time_limit": anything,
    "overlap": anything,
    "initial_critics": anything,
    # a configuration file may have added to the table by now
    "policy_kind": lambda field, value: check_choice(field, value, KINDS),
    "eval.every_env_steps": count(1),
    "checkpoint.every_env_steps": count(1),
    "log.every_env_steps": count(1),
}


def field_rules() -> dict[str, Rule]:
    """Returns the rule of every field of a training configuration."""
    return {
        **FIELDS,
        **play.FIELDS,
        **envs.field_rules(),
        **policy_files.FIELDS,
        **methods.FIELDS,
        **replay_memory.FIELDS,
    }


def check_train(config: ConfigDict, *, resume: bool = False) -> None:
    """Raises UserError where a training configuration makes no sense.

    A run that goes on has a base policy of its own, which need not stand elsewhere.
    """
    check_fields(config, field_rules())
    if config.method in GUIDED:
        guided_steps(guidance_options(config, dynamic=True), config.ddim_steps)
    replay_memory.make_draw(config)
    if not resume:
        _check_base_policy(config)
    if config.acting_noise not in config.eval.noises:
        raise UserError(
            f"config.eval.noises: found {tuple(config.eval.noises)}, expected it to "
            f"hold acting_noise '{config.acting_noise}', so that base and steered "
            "policy are compared with the same noise"
        )
    if config.first_rollout_env_steps >= config.total_env_steps:
        raise UserError(
            f"config.total_env_steps: found {config.total_env_steps}, expected more "
            f"than first_rollout_env_steps = {config.first_rollout_env_steps}; raise "
            "the one or lower the other"
        )
    if config.seed + config.num_seeds - 1 > SEED_END:
        raise UserError(
            f"config.seed: found {config.seed}, expected at most "
            f"{SEED_END + 1 - config.num_seeds} for num_seeds = {config.num_seeds}"
        )
    if config.overlap and not config.first_rollout_env_steps:
        raise UserError(
            "config.overlap: found True without first rollouts, expected False or "
            "first_rollout_env_steps above 0: the first training call would run beside "
            "the first vector step and find no transitions"
        )


def _check_base_policy(config: ConfigDict) -> None:
    try:
        policy_files.locate(policy_files.policy_source(config))
    except UserError as error:
        raise UserError(f"config.base_policy: {error}") from error
