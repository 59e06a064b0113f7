"""Arrays in annotations with shapes, `Float[Array, "b do"]`: JAX's or NumPy's."""

import jax
import numpy as np

Array = jax.Array | np.ndarray
