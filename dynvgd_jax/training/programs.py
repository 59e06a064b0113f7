"""The compiled functions of a training run, of any method."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.types import EpisodeEnds, PyTree
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.replay import ring
from dynvgd_jax.steering.base import ActInputs, Decision, Method, Metrics, Value
from dynvgd_jax.steering.noise import make_base_decode
from dynvgd_jax.training.compile import (
    SAME,
    SHARED,
    SPREAD,
    compile_for,
    compile_for_first,
    local,
    make_put,
    make_replicate,
)
from dynvgd_jax.training.placement import ONE_DEVICE, Placement, require_shares
from dynvgd_jax.training.replay_memory import RING, Draw, make_draw

# The kinds of acting's inputs: all but these are one a seed.
_INPUTS = ActInputs(*[SPREAD] * len(ActInputs._fields))._replace(
    env_steps=SAME, evaluating=SAME, noise=SAME
)


class Programs(NamedTuple):
    """The compiled functions of a run; what is per seed is a sequence.

    Results that several seeds have are as `Placement.collect` takes them.
    """

    # (noise kind, obs, key, seeds, chunk_index) -> chunk of the base policy
    decode: Callable[..., jax.Array]
    explore: Callable[[ActInputs], Decision]  # of one seed, in the first rollouts
    act_one: Callable[[Any, ActInputs], Decision]  # of one seed's learner
    # (one seed's learner, obs, chunk) -> Value of each row; None without critics
    value: Callable[..., Value] | None
    put: Callable[[Sequence[PyTree]], PyTree]  # learners -> as `act` and `update` take
    act: Callable[[PyTree, Sequence[ActInputs]], Decision]
    # inputs per seed -> what belongs to their observations, as `act`'s results
    propose: Callable[[Sequence[ActInputs]], dict[str, jax.Array]]
    # (learner, replay, keys per seed, env_steps) -> (learner, metrics)
    update: Callable[..., tuple[PyTree, Metrics]]
    observe: Callable[[PyTree, Sequence[EpisodeEnds]], PyTree]


def compile_programs(
    config: ConfigDict, policy: Policy, method: Method, placement: Placement
) -> Programs:
    """Returns the run's functions, compiled on first use, states donated.

    Args:
      config: of the run, checked.
      policy: the frozen policy.
      method: built with `placement.average`.
      placement: of seeds and devices.

    Raises:
      UserError: batches or environments cannot be shared by the devices.
    """
    draw = make_draw(config, method.follows, method.more_batches)
    require_shares(
        placement,
        **{
            "batch_size": draw.batch_size,
            "num_envs": config.num_envs,
            "replay.offline_share x batch_size": draw.num_offline,
        },
    )
    params = make_replicate(placement)(policy.params)
    local_params = local(params)
    decode = jax.jit(make_base_decode(config, policy), static_argnums=0)
    explore, act_one = jax.jit(method.explore), jax.jit(method.act)
    act = compile_for_first(placement, method.act, (SPREAD, SAME, _INPUTS), SPREAD)
    propose = method.propose and compile_for_first(
        placement, method.propose, (SAME, _INPUTS), SPREAD
    )

    def together(per_seed: Sequence[ActInputs]) -> ActInputs:
        # what all seeds have alike comes from the first
        spread = placement.spread([_own(inputs) for inputs in per_seed])
        return per_seed[0]._replace(**spread)

    return Programs(
        decode=lambda kind, *inputs: decode(kind, local_params, *inputs),
        explore=lambda inputs: explore(local_params, inputs),
        act_one=lambda learner, inputs: act_one(learner, local_params, inputs),
        value=method.value and jax.jit(method.value),
        put=make_put(placement),
        act=lambda learner, inputs: act(learner, params, together(inputs)),
        propose=lambda inputs: propose(params, together(inputs)),
        update=_compile_update(config, method, placement, draw, params),
        observe=_compile_observe(method, placement),
    )


def _own(inputs: ActInputs) -> dict[str, Any]:
    """The inputs that are one a seed."""
    kinds = _INPUTS._asdict()
    return {n: v for n, v in inputs._asdict().items() if kinds[n] is SPREAD}


def call_on_ring(
    method: Method, draw: Draw, placement: Placement = ONE_DEVICE
) -> Callable:
    """Returns the training call that draws its batches itself, of one device.

    `(learner, ReplayState, params, key, env_steps) -> (learner, scalars)`; `draw` is
    this device's share.
    """

    def call(learner, state, params, key, env_steps):
        key = placement.own_key(key)
        sample_key, _ = jax.random.split(key)
        shape = (draw.utd, draw.batch_size)
        batches = ring.sample(state, sample_key, shape, draw.window, draw.num_offline)
        return method.update(learner, params, batches, key, env_steps)

    return call


def call_on_batches(method: Method, placement: Placement = ONE_DEVICE) -> Callable:
    """Returns the training call on batches `[B, utd, ...]`, of one device.

    `(learner, batches, params, key, env_steps) -> (learner, scalars)`.
    """

    def call(learner, batches, params, key, env_steps):
        # devices share the first axis
        batches = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), batches)
        return method.update(
            learner, params, batches, placement.own_key(key), env_steps
        )

    return call


def _compile_update(
    config: ConfigDict, method: Method, placement: Placement, draw: Draw, params: PyTree
) -> Callable:
    """The training call: draws batches, on the devices or before, and learns."""
    on_device = config.replay.memory == "device"
    if on_device:
        own = draw.share(placement.group_devices)
        function, data = call_on_ring(method, own, placement), RING
    else:
        function, data = call_on_batches(method, placement), SHARED
    kinds = (SPREAD, data, SAME, SPREAD, SAME)
    update = compile_for(placement, function, kinds, SPREAD, donate=(0,))

    def call_update(learner, replay, keys, env_steps):
        data = replay.state if on_device else replay.draw(keys, draw)
        # of several processes pmap takes arrays only
        inputs = placement.spread(keys), np.int32(env_steps)
        return update(learner, data, params, *inputs)

    return call_update


def _compile_observe(method: Method, placement: Placement) -> Callable:
    if method.observe is None:
        return lambda learner, ends: learner
    observe = compile_for(
        placement, method.observe, (SPREAD, SPREAD), SPREAD, donate=(0,)
    )
    return lambda learner, ends: observe(learner, placement.spread(ends))
