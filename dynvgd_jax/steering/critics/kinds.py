"""The kinds of critics by name; a new one is a file and a line here."""

from ml_collections import ConfigDict

from dynvgd_jax.core.fields import one_of
from dynvgd_jax.steering.critics.base import Critic
from dynvgd_jax.steering.critics.hl_gauss import make_hl_gauss_critic
from dynvgd_jax.steering.critics.mlp import make_mean_critic
from dynvgd_jax.steering.critics.quantile import make_quantile_critic

# (config, Do, Ta * Da) -> Critic
CRITICS = {
    "mean": make_mean_critic,
    "quantile": make_quantile_critic,
    "hl_gauss": make_hl_gauss_critic,
}

# Of a kind, fields that change what its numbers mean and no shape.
MEANING = {"hl_gauss": ("critic.v_min", "critic.v_max")}

FIELDS = {"critic.kind": one_of(CRITICS)}


def make_critic(config: ConfigDict, obs_dim: int, flat_action_dim: int) -> Critic:
    """Returns the critics that `config.critic` asks for."""
    return CRITICS[config.critic.kind](config, obs_dim, flat_action_dim)
