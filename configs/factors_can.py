"""`:quick` on Can with one thing changed at a time: docs/results/proposals.md."""

from ml_collections import ConfigDict

from configs import can_ddim8, compare_can
from dynvgd_jax.core.fields import apply_preset, nested

GUIDED = {
    "guidance.scale": 0.04,
    "guidance.last_k": 0,
    "guidance.first_k": 4,
    "guidance.point": "estimate",
    "guidance.time_anneal": "off",
}
# Name -> the fields that its runs have unlike `:quick`, which is the first line.
FACTORS = {
    "quick": {},
    # What a target looks at, and how.
    "mean_of_proposals": {"target_backup": "mean"},
    "all_proposals": {"target_proposals": 0},
    "one_proposal": {"target_proposals": 1},
    "least_critic": {"target_reduce": "min"},
    "random_pair": {"target_reduce": "random_pair"},
    "one_chunk_returns": {"target_n_step": 1},
    "ten_chunk_returns": {"target_n_step": 10},
    "returns_to_the_limit": {"end_at_success": False},
    "done_at_the_limit": {"bootstrap_at_time_limit": False},
    # How the critics learn.
    "utd_8": {"utd": 8},
    "utd_32": {"utd": 32},
    "action_noise": {"critic.action_noise": 0.4},
    "initial_value_0": {"critic.initial_value": 0.0},
    "gamma_98": {"gamma": 0.98, "critic.initial_value": -110.0},
    "gamma_99": {"gamma": 0.99, "critic.initial_value": -150.0},
    "slower_targets": {"target_tau": 0.002},  # which also choose
    "two_critics": {"critic.num": 2},
    "wide_critics": {"critic.width": 512},
    "two_groups": {"critic.groups": 2},
    "eight_critics_in_four_groups": {"critic.num": 8, "critic.groups": 4},
    "quantile": {"critic.kind": "quantile"},
    "hl_gauss": {"critic.kind": "hl_gauss"},
    # What acts, first and later.
    "current_critics": {"guidance.critics": "current"},
    "choice_by_the_least": {"guidance.reduce": "min"},
    "tanh_randn": {"proposals.noises": ("tanh_randn",)},
    "four_proposals": {"guidance.candidates": 4},
    "sixteen_proposals": {"guidance.candidates": 16},
    "explore_16k": {"first_rollout_env_steps": 16_000},
    "explore_48k": {"first_rollout_env_steps": 48_000},
    "explore_held": {"explore.hold_chunks": (1, 8)},
    "edit": {"method": "edit"},
    # Guidance of a single chunk and of all eight, by the early steps that harm least
    # (docs/results/guidance.md), in acting too.
    "guided": GUIDED
    | {
        "guidance.candidates": 1,
        "proposals.noises": ("tanh_randn",),
        "target_proposals": 0,
    },
    "guided_choice": GUIDED,
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the job; presets: see `with_preset`."""
    return with_preset("can", can_ddim8, preset)


def with_preset(task: str, module, preset: str) -> ConfigDict:
    """Returns the job of a task: two seeds of each factor.

    Presets: "", all of `:quick`; "short", its first 64,000 control steps with the one
    evaluation behind them, about a sixth of an hour of one core a run.

    Args:
      task: "can" or "square".
      module: its configurations with 8 DDIM steps.
      preset: one of the above.
    """
    config = module.get_config("quick")
    # The base policy from other start noises is what "quick" shows by itself.
    config.eval.noises = (config.acting_noise,)
    config = apply_preset(config, preset, {"short": _short})
    compare_can.add_comparison(config, f"configs/{task}_ddim8.py", "quick")
    config.compare.methods = tuple(FACTORS)
    made = {n: {"method": config.method} | fields for n, fields in FACTORS.items()}
    config.compare.overrides = nested({name: nested(made[name]) for name in made})
    config.compare.seeds = (0, 1)
    config.compare.once = ()
    return config


def _short(config: ConfigDict) -> None:
    config.total_env_steps = config.eval.every_env_steps = 64_000
