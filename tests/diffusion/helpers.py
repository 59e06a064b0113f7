"""Parameters for tests, drawn with NumPy, none of them at its initial value."""

import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.diffusion.network import param_shapes


def random_params(network, seed=0, out_scale=1.0):
    """Kernels of their usual size, biases and LayerNorm scales off 0 and 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.uniform(-1, 1, leaf.shape)
        if path[-1].key == "kernel":
            values = values / np.sqrt(leaf.shape[0])
        elif path[-1].key == "scale":
            values = 1 + 0.3 * values
        else:
            values = 0.1 * values
        return jnp.float32(values * (out_scale if path[0].key == "out" else 1.0))

    return jax.tree_util.tree_map_with_path(draw, param_shapes(network))
