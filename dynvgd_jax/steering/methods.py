"""The methods by name; a new one is a file, a line here and a configuration."""

import sys
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from dynvgd_jax.core import precision
from dynvgd_jax.core.fields import Rule, one_of
from dynvgd_jax.core.precision import with_precision
from dynvgd_jax.core.types import PyTree
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.steering import (
    dsrl_na,
    dsrl_sac,
    edit,
    golden_ticket,
    guidance,
    noise,
    noise_acting,
    noise_actor,
    proposals,
    sac,
    vgd,
    weight,
)
from dynvgd_jax.steering.base import Method, Setting
from dynvgd_jax.steering.critics import groups, kinds, td

# config.method -> (setting) -> Method
METHODS: dict[str, Callable[[Setting], Method]] = {
    "dynvgd": vgd.dynvgd,
    "vgd": vgd.vgd,
    "base": vgd.base,
    "best_of_n": vgd.best_of_n,
    "edit": edit.edit,
    "golden_ticket": golden_ticket.golden_ticket,
    "dsrl_na": dsrl_na.dsrl_na,
    "dsrl_sac": dsrl_sac.dsrl_sac,
}

# Rules of every field that decides a steered policy, of all methods.
FIELDS: dict[str, Rule] = {"method": one_of(METHODS), **precision.FIELDS}
_PARTS = (noise, proposals, guidance, weight, kinds, groups, td)
_PARTS += (noise_actor, noise_acting, sac)
_REGISTERED = (*kinds.CRITICS.values(), *METHODS.values())
_FILES = (sys.modules[make.__module__] for make in _REGISTERED)
for _part in (*_PARTS, *_FILES):
    FIELDS |= _part.FIELDS


def build_method(
    config: ConfigDict,
    policy: Policy,
    average: Callable[[PyTree], PyTree] = lambda tree: tree,
) -> Method:
    """Returns the pure functions of `config.method` for a base policy.

    Args:
      config: of the run, checked.
      policy: the frozen policy.
      average: mean over the devices, where each holds a part of every batch.

    Raises:
      UserError: the steps, or the guided ones, do not fit the policy.
    """
    setting = Setting(
        config,
        policy.denoiser(config.ddim_steps),
        policy.obs_dim,
        (policy.chunk_len, policy.action_dim),
        average,
    )
    method = METHODS[config.method](setting)
    functions = {
        name: with_precision(function, config.precision)
        for name, function in method._asdict().items()
        if callable(function)
    }
    return method._replace(**functions)


def state_shapes(method: Method) -> PyTree:
    """Returns the method's state as shapes and dtypes."""
    return jax.eval_shape(method.init, jax.random.key(0))
