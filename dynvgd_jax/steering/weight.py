"""How far guidance trusts the critics: w falls as they disagree or are unstable."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dynvgd_jax.core.fields import number

WEIGHT_MIN = 1e-3

FIELDS = {
    "guidance.beta": number(0.0, 1e6),
    "guidance.c_local": number(1e-6, 1e9),
    "guidance.c_global": number(1e-6, 1e9),
}


class Weighting(NamedTuple):
    """Static choices of w."""

    beta: float = 1.0  # sensitivity of w to disagreement and TD error
    c_local: float = 5.0  # Q units, scale of the ensemble's standard deviation
    c_global: float = 100.0  # Q units, scale of the TD error


def weighting(config: ConfigDict) -> Weighting:
    """Returns what `config.guidance` says of w."""
    options = config.guidance
    return Weighting(options.beta, options.c_local, options.c_global)


def local_weight(q: jax.Array, options: Weighting) -> jax.Array:
    """Returns `exp(-beta * std_i(q_i) / c_local)`, `[B]`, for `q [N, B]`.

    The standard deviation is the sample one (ddof = 1); a single critic cannot
    disagree, so its weight is 1.
    """
    if q.shape[0] == 1:
        return jnp.ones_like(q[0])
    return jnp.exp(-options.beta * jnp.std(q, axis=0, ddof=1) / options.c_local)


def dynamic_weight(q: jax.Array, td_error: jax.Array, options: Weighting) -> jax.Array:
    """Returns `w [B]` in `[1e-3, 1]` for `q [N, B]` and the scalar `td_error`."""
    w_global = jnp.exp(-options.beta * td_error / options.c_global)
    return jnp.clip(local_weight(q, options) * w_global, WEIGHT_MIN, 1.0)
