"""The matrix products of one training call, by formula.

With B rows, N critics of widths in -> W -> .. -> W -> 1 and K DDIM steps, one gradient
step takes

- the policy once for each step before the first guided one (all gradient steps of the
  call in one batch), and for guided step k once for the step, K - 1 - k times for the
  estimate z and, except after the last step, once for the noise put back; what depends
  on the observation alone once before and once from the first guided step on;
- per guided step one forward of the critics and one backward to their input;
- for the TD update one forward of the targets, one of the critics, and their backward:
  to all weights, and to all inputs but the first.

The policy's weights are folded once a call (diffusion/frozen.py). A product of [m, k]
and [k, n] counts 2 m k n; everything else (norms, activations, Adam, Polyak) counts
nothing.
"""

import itertools
from collections import Counter

from ml_collections import ConfigDict

from dynvgd_jax.diffusion.network import DiffusionMLP
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.steering.guidance import guidance_options, guided_steps

Products = Counter  # (m, k, n) -> how often


def call_products(config: ConfigDict, policy: Policy) -> Products:
    """Returns the products of one training call of `config.utd` gradient steps."""
    guidance = guidance_options(config, dynamic=True)
    guided_from = guided_steps(guidance, config.ddim_steps).start
    last = config.ddim_steps - 1
    guided = range(guided_from, config.ddim_steps)
    evaluations = sum(1 + (last - k) + (k < last) for k in guided)
    batch, utd = config.batch_size, config.utd
    inputs = policy.obs_dim + policy.chunk_len * policy.action_dim
    widths = [inputs, *[config.critic.width] * config.critic.depth, 1]

    network = policy.network
    products = Counter(fold_shapes(network))
    for rows, times, count in (
        (utd * batch, 1, guided_from),
        (batch, utd, evaluations),
    ):
        for shape in condition_shapes(network, rows):
            products[shape] += times * (count > 0)
        for shape in evaluation_shapes(network, rows):
            products[shape] += times * count
    for layer, (width_in, width_out) in enumerate(itertools.pairwise(widths)):
        forward, to_input, to_weights = (
            (batch, width_in, width_out),
            (batch, width_out, width_in),
            (width_in, batch, width_out),
        )
        times = utd * config.critic.num
        products[forward] += times * (len(guided) + 2)
        products[to_input] += times * (len(guided) + (layer > 0))
        products[to_weights] += times
    return products


def fold_shapes(network: DiffusionMLP) -> list[tuple[int, int, int]]:
    """Returns the products of weights that fold a residual policy."""
    flat_dim, width = _widths(network)
    inputs = flat_dim + network.time_dim + [network.obs_dim, *network.cond_dims][-1]
    rows = [inputs, 1, *[width, 1] * network.num_blocks]  # kernels and biases
    return [(m, width, flat_dim) for m in rows]


def condition_shapes(network: DiffusionMLP, rows: int) -> list[tuple[int, int, int]]:
    """Returns the products on `rows` observations, which all steps share."""
    widths = [network.obs_dim, *network.cond_dims]
    encoder = [(rows, k, n) for k, n in itertools.pairwise(widths)]
    return encoder + [(rows, widths[-1], n) for n in _widths(network)]


def evaluation_shapes(network: DiffusionMLP, rows: int) -> list[tuple[int, int, int]]:
    """Returns the other products of one evaluation of the policy on `rows` samples."""
    flat_dim, width = _widths(network)
    blocks, time = network.num_blocks, network.time_dim
    return [
        (1, time, 2 * time),  # the embedding is the same for all rows
        (1, 2 * time, time),
        *((1, time, n) for n in (flat_dim, width)),
        *((rows, flat_dim, n) for n in (flat_dim, width)),
        *[(rows, width, width)] * (2 * blocks - 1),
        *[(rows, width, flat_dim)] * blocks,
    ]


def _widths(network: DiffusionMLP) -> tuple[int, int]:
    """Values of a chunk, and hidden units of the residual trunk."""
    return network.chunk_len * network.action_dim, network.hidden_dims[0]


def flops(products: Products) -> int:
    """Returns the floating-point operations of `products`."""
    return sum(2 * m * k * n * times for (m, k, n), times in products.items())
