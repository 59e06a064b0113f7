"""The matrix products of one training call, by formula.

With B rows, N critics of widths in -> W -> .. -> W -> 1 and K DDIM steps, one gradient
step takes

- the policy once for each step before the first guided one (all gradient steps of the
  call in one batch), and for guided step k once for the step, K - 1 - k times for the
  estimate z and, except after the last step, once for the noise put back;
- per guided step one forward of the critics and one backward to their input;
- for the TD update one forward of the targets, one of the critics, and their backward:
  to all weights, and to all inputs but the first.

A product of [m, k] and [k, n] counts 2 m k n; everything else (norms, activations,
Adam, Polyak) counts nothing.
"""

import itertools
from collections import Counter

from ml_collections import ConfigDict

from dynvgd_jax.agent import method_options
from dynvgd_jax.diffusion.network import DiffusionMLP
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.steering.guidance import first_guided_step

Products = Counter  # (m, k, n) -> how often


def call_products(config: ConfigDict, policy: Policy) -> Products:
    """Returns the products of one training call of `config.utd` gradient steps."""
    guided_from = first_guided_step(method_options(config).guidance, config.ddim_steps)
    last = config.ddim_steps - 1
    guided = range(guided_from, config.ddim_steps)
    evaluations = sum(1 + (last - k) + (k < last) for k in guided)
    batch, utd = config.batch_size, config.utd
    inputs = policy.obs_dim + policy.chunk_len * policy.action_dim
    widths = [inputs, *[config.critic.width] * config.critic.depth, 1]

    products = Counter()
    for shape in policy_shapes(policy.network, utd * batch):
        products[shape] += guided_from
    for shape in policy_shapes(policy.network, batch):
        products[shape] += utd * evaluations
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


def policy_shapes(network: DiffusionMLP, rows: int) -> list[tuple[int, int, int]]:
    """Returns the products of one evaluation of the policy on `rows` samples."""
    flat_dim = network.chunk_len * network.action_dim
    condition = [network.obs_dim, *network.cond_dims]
    trunk = [flat_dim + network.time_dim + condition[-1], *network.hidden_dims]
    time = network.time_dim
    return [
        (1, time, 2 * time),  # the embedding is the same for all rows
        (1, 2 * time, time),
        *((rows, k, n) for k, n in itertools.pairwise(condition)),
        *((rows, k, n) for k, n in itertools.pairwise(trunk)),
        (rows, trunk[-1], flat_dim),
    ]


def flops(products: Products) -> int:
    """Returns the floating-point operations of `products`."""
    return sum(2 * m * k * n * times for (m, k, n), times in products.items())
