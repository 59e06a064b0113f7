"""A decision as one file: StableHLO by `jax.export`, its weights, and what it is.

An npz without pickles: `program` (uint8, for `jax.export.deserialize`), `weight_0`,
`weight_1`, ..., and `metadata` (JSON, text). The program takes the weights as a list,
then raw observations `[B, Do]` float32, episode seeds `[B]` uint32 and chunk numbers
`[B]` int32, and returns raw actions `[B, Ta, Da]` float32, for any B.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export  # not loaded by jax itself
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import SPAN_FLOOR, Normalization
from dynvgd_jax.core.observation import LAYOUTS
from dynvgd_jax.core.types import PyTree
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.runs.durable import new_file
from dynvgd_jax.runs.settings import versions

FORMAT_VERSION = 1
PLATFORMS = ("cpu", "cuda")  # one program for both, on whichever it was written


def write_program(
    path: str | Path,
    decide: Callable[..., jax.Array],
    arrays: Sequence[PyTree],
    policy: Policy,
    about: dict[str, Any],
) -> None:
    """Writes `decide`, normalisation included, to one file.

    Args:
      path: new file; `.npz` by convention.
      decide: `(*arrays, obs, seeds, chunk_index) -> chunk`, see
        `controller.make_decide`.
      arrays: its weights; those that it does not use are left out.
      policy: sizes, scale and task.
      about: more for the metadata, JSON values.

    Raises:
      UserError: `path` exists or cannot be written.
    """
    path = expand(path)
    leaves, tree = jax.tree.flatten(list(arrays))
    leaves = [np.asarray(leaf) for leaf in leaves]

    def whole(weights, *inputs):
        act = _raw(decide, jax.tree.unflatten(tree, weights), policy.normalization)
        return act(*inputs)

    used = _used(whole, leaves, policy)

    def of_used(weights, *inputs):
        every = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in leaves]
        for place, weight in zip(used, weights, strict=True):
            every[place] = weight
        return whole(every, *inputs)

    weights = [leaves[i] for i in used]
    (batch,) = jax.export.symbolic_shape("B")
    exported = _export(of_used, weights, policy, batch)
    program = np.frombuffer(exported.serialize(), np.uint8)
    contents = [program, *weights]
    metadata = _metadata(policy, about, contents)
    named = {f"weight_{i}": weight for i, weight in enumerate(weights)}
    try:
        with new_file(path) as file:
            np.savez(file, program=program, metadata=np.array(metadata), **named)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _raw(
    decide: Callable[..., jax.Array], arrays: list[PyTree], norm: Normalization
) -> Callable[..., jax.Array]:
    """`decide` on raw observations, giving raw actions, float32, of any B.

    Each row is decided by itself, under vmap, so that no method needs to know of a
    size that is a symbol.
    """

    def one(obs, seed, chunk_index):
        rows = (obs[None], seed[None], chunk_index[None])
        return decide(*arrays, *rows)[0]

    def act(obs, seeds, chunk_index):
        # In float64 inside the program, whatever the caller's JAX is set to: float32
        # would lose up to 1e-5 where an entry's range is small.
        with jax.enable_x64(True):
            scaled = _normalize(norm, obs)
        chunk = jax.vmap(one)(scaled, seeds, chunk_index)
        with jax.enable_x64(True):
            return _unnormalize(norm, chunk)

    return act


def _normalize(norm: Normalization, obs: jax.Array) -> jax.Array:
    """`normalize.normalize_obs` as part of a program; x64 is on."""
    low = np.asarray(norm.obs_min, np.float64)
    span = np.asarray(norm.obs_max, np.float64) - low + SPAN_FLOOR
    scaled = 2.0 * ((obs.astype(jnp.float64) - low[None]) / span[None] - 0.5)
    return scaled.astype(jnp.float32)


def _unnormalize(norm: Normalization, chunk: jax.Array) -> jax.Array:
    """`normalize.unnormalize_action` as part of a program, float32; x64 is on."""
    low = np.asarray(norm.action_min, np.float64)[None, None]
    span = np.asarray(norm.action_max, np.float64)[None, None] - low
    action = (chunk.astype(jnp.float64) + 1.0) / 2.0 * span + low
    return action.astype(jnp.float32)


def _export(function, weights: list[np.ndarray], policy: Policy, batch: Any):
    """Exports `function` for `batch` rows, a number or a symbol."""
    inputs = (
        jax.ShapeDtypeStruct((batch, policy.obs_dim), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.uint32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    shapes = [jax.ShapeDtypeStruct(w.shape, w.dtype) for w in weights]
    make = jax.export.export(jax.jit(function), platforms=PLATFORMS)
    return make(shapes, *inputs)


def _used(function, leaves: list[np.ndarray], policy: Policy) -> list[int]:
    """Numbers of the leaves that the function's result depends on."""
    # of a number of rows: with a symbol JAX keeps all arguments
    kept = _export(function, leaves, policy, 1).module_kept_var_idx
    return [i for i in kept if i < len(leaves)]


def _metadata(
    policy: Policy, about: dict[str, Any], contents: Sequence[np.ndarray]
) -> str:
    digest = hashlib.sha256()
    for array in contents:
        digest.update(np.ascontiguousarray(array).tobytes())
    return json.dumps(
        {
            "format_version": FORMAT_VERSION,
            "task": policy.task,
            "obs_dim": policy.obs_dim,
            "action_dim": policy.action_dim,
            "chunk_len": policy.chunk_len,
            # (name, size) of each part of the observation, in order
            "observation": LAYOUTS.get(policy.task, ()),
            **about,
            "platforms": PLATFORMS,
            "num_weights": len(contents) - 1,
            "sha256": digest.hexdigest(),  # of the program, then of every weight
            "versions": versions(),
        },
        indent=2,
    )
