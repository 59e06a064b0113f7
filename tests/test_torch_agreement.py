"""Guided decode, TD step and DPPO's sampling agree with PyTorch at the real sizes.

The reference (tests/torch_reference.py) runs in float64, ours in float32 with exact
matmuls. The cases are not the full product of all choices but hold every pair of them.
"""

import copy
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs import base
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.core.types import Transition
from dynvgd_jax.diffusion.diffusion_mlp import BASE, FINE_TUNED
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.replay import ring as replay_lib
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.kinds import make_critic
from dynvgd_jax.steering.critics.mlp import CriticEnsemble
from dynvgd_jax.steering.critics.td import CriticState
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.steering.vgd import LearnerState
from dynvgd_jax.torch_weights import critics as critic_layout
from dynvgd_jax.torch_weights.layouts import infer_network, to_flax
from dynvgd_jax.training.programs import call_on_ring
from dynvgd_jax.training.replay_memory import make_draw
from tests.steering.toy import inputs as act_inputs
from tests.support import torch_reference as ref

SIZES = {"can": ref.CAN, "square": ref.SQUARE}
CHOICES = (
    ("can", "square"),
    (4, 8),  # DDIM steps
    ("linear", "cosine", "off"),  # anneal
    ("min", "mean"),  # of critics, in guidance and target
    ("dynvgd", "vgd"),  # dynamic or fixed weight
    (False, True),  # fine-tuned
)
LAYOUTS = ("residual", "residual-norm", "plain", "plain-norm")
CASES = (
    ("can", 4, "off", "mean", "vgd", True, "plain"),
    ("square", 8, "linear", "mean", "dynvgd", False, "residual"),
    ("square", 4, "cosine", "min", "vgd", False, "plain-norm"),
    ("can", 8, "cosine", "min", "dynvgd", True, "residual"),
    ("can", 4, "linear", "min", "dynvgd", True, "residual-norm"),
    ("square", 8, "off", "min", "dynvgd", False, "residual-norm"),
    ("square", 8, "linear", "mean", "vgd", True, "residual"),
    ("can", 4, "cosine", "mean", "vgd", False, "residual"),
)
QUICK = CASES[:3]  # every choice once; the others of the pairs run with the slow tests
PARAMETERS = [
    pytest.param(
        row,
        id="-".join(map(str, row)),
        marks=() if row in QUICK else pytest.mark.slow,
    )
    for row in CASES
]
NUM, WIDTH, DEPTH = 4, 64, 3
UTD, BATCH, ROWS, TD_ERROR, FT_STEPS = 3, 16, 6, 7.0, 2
KEY = 11
# Of the gradient steps' batches. Adam's first steps divide each gradient by its own
# size: where one nearly cancels, as one of 4,096 did for another seed, float32 sums on
# one core and on two differ by more than the bound.
SEED = 10


def test_the_cases_cover_every_pair_of_choices_and_every_layout():
    columns = range(len(CHOICES))
    for i, j in itertools.combinations(columns, 2):
        found = {(row[i], row[j]) for row in CASES}
        assert found == set(itertools.product(CHOICES[i], CHOICES[j])), (i, j)
    for i in columns:
        assert {row[i] for row in QUICK} == set(CHOICES[i]), i
    assert {row[-1] for row in CASES} == set(LAYOUTS)


def configure(row):
    task, ddim_steps, anneal, reduce, method, _, _ = row
    config = base.get_config()
    config.task, config.method, config.ddim_steps = task, method, ddim_steps
    config.guidance.last_k = 3 if ddim_steps == 8 else 2
    config.guidance.scale = 0.02
    config.guidance.time_anneal, config.guidance.reduce = anneal, reduce
    config.target_reduce = reduce
    config.target_clip = 0.0 if method == "vgd" else 400.0
    config.critic.num, config.critic.width, config.critic.depth = NUM, WIDTH, DEPTH
    config.utd, config.batch_size = UTD, BATCH
    return config


def arrays(module):
    return {key: value.numpy() for key, value in module.state_dict().items()}


def make_policy(task, nets):
    sizes = SIZES[task]
    network = infer_network("net", arrays(nets[0]), sizes.act, "mish")
    trees = [to_flax("net", network, arrays(net)) for net in nets]
    norm = Normalization(*(np.ones(n) for n in (sizes.obs,) * 2 + (sizes.act,) * 2))
    return Policy(
        network,
        trees[0] if len(nets) == 1 else dict(zip((BASE, FINE_TUNED), trees)),
        sizes.train_steps,
        norm,
        task,
        ft_denoising_steps=FT_STEPS if len(nets) == 2 else 0,
    )


def draw(sizes, seed, count, gamma=1.0):
    """Random transitions, as drawn with `gamma`, or with 1 as stored; start noise."""
    rng = np.random.default_rng(seed)
    obs = rng.uniform(-1, 1, (2, count, sizes.obs)).astype(np.float32)
    chunk = (count, sizes.chunk, sizes.act)
    action = rng.uniform(-1, 1, chunk).reshape(count, -1).astype(np.float32)
    reward = rng.uniform(-4, 0, count).astype(np.float32)
    goes_on = (rng.random(count) >= 0.2).astype(np.float32)
    noise = rng.normal(size=chunk).astype(np.float32)
    discount = np.float32(gamma) * goes_on
    return Transition(obs[0], action, reward, obs[1], discount, goes_on == 0), noise


def double(*values):
    return [torch.from_numpy(np.array(value, np.float64)) for value in values]


class Case(NamedTuple):
    """One row on both sides: ours in float32, the reference in float64."""

    sizes: ref.Sizes
    config: Any
    policy: Policy
    method: Any
    learner: Any
    ensemble: CriticEnsemble
    net: Any  # (x, t, obs) -> eps
    table: list
    current: ref.Critics
    target: ref.Critics
    optimizer: torch.optim.Adam

    def reference_decode(self, noise, obs):
        x, obs = double(noise, obs)
        arguments = (self.net, self.current, x, obs, self.table, self.config, TD_ERROR)
        return ref.guided_decode(*arguments)

    def tolerance(self, noise, obs):
        """Of actions: thrice what sums in float32 do to the reference.

        And four last bits of a number of size 1, for all that is no sum.
        """
        exact = self.reference_decode(noise, obs)
        with ref.float32_sums():
            felt = np.abs(self.reference_decode(noise, obs) - exact).max()
        return float(3 * felt + 4 * np.finfo(np.float32).eps)

    def reference_step(self, batch, chunk):
        """One gradient step; returns mean |Q - y|."""
        modules = (self.current, self.target, self.optimizer)
        rows = double(*batch[:4], batch.discount)
        errors = ref.td_step(*modules, rows, chunk.flatten(1), self.config)
        return float(errors.mean())

    def assert_same_critics(self, critic):
        pairs = ((critic.params, self.current), (critic.target_params, self.target))
        for tree, module in pairs:
            back = critic_layout.from_flax(self.ensemble, tree)
            for name, value in arrays(module).items():
                np.testing.assert_allclose(back[name], value, atol=1e-5, err_msg=name)


def make_case(row):
    task, ddim_steps, *_, fine_tuned, layout = row
    sizes, config = SIZES[task], configure(row)
    nets = [ref.make_net(sizes, layout, seed) for seed in range(1 + fine_tuned)]
    inputs = sizes.obs + sizes.chunk * sizes.act
    modules = [ref.make_critics(NUM, inputs, WIDTH, DEPTH, seed) for seed in (5, 6)]
    policy, ensemble = make_policy(task, nets), CriticEnsemble(NUM, WIDTH, DEPTH)
    params, target_params = (
        critic_layout.to_flax("critics", ensemble, inputs, arrays(module))
        for module in modules
    )
    opt_state = td.make_optimizer(config.learning_rate).init(params)
    critic = CriticState(params, target_params, opt_state)
    learner = LearnerState(critic, jnp.float32(TD_ERROR), jnp.int32(0))
    nets = [net.double() for net in nets]
    current, target = (module.double() for module in modules)
    table = ref.ddim_table(sizes.train_steps, ddim_steps)
    return Case(
        sizes=sizes,
        config=config,
        policy=policy,
        method=build_method(config, policy),
        learner=learner,
        ensemble=ensemble,
        net=ref.mixed(nets[0], nets[-1], table, FT_STEPS),
        table=table,
        current=current,
        target=target,
        optimizer=torch.optim.Adam(current.parameters(), lr=config.learning_rate),
    )


@pytest.mark.parametrize("row", PARAMETERS)
def test_guided_decode_and_three_td_steps_agree_with_torch(row):
    case = make_case(row)
    sizes, config = case.sizes, case.config
    critic = make_critic(config, sizes.obs, sizes.chunk * sizes.act)
    optimizer = td.make_optimizer(config.learning_rate)

    def step(learner, params, batch, noise):
        inputs = act_inputs(batch.next_obs, noise)
        chunk = case.method.act(learner, params, inputs).chunk
        flat = chunk.reshape(len(chunk), -1)
        y = td.next_target(critic, learner.critic.target_params, batch, flat)
        arguments = (critic, optimizer, learner.critic, batch, y, config.target_tau)
        state, metrics = td.gradient_step(*arguments)
        return chunk, learner._replace(critic=state), metrics

    # Compiling is most of this test's time; LLVM's optimisation is not its subject.
    batch, noise = draw(sizes, SEED, BATCH, config.gamma)
    lowered = jax.jit(step).lower(case.learner, case.policy.params, batch, noise)
    program = lowered.compile({"xla_backend_optimization_level": 0})
    learner, before = case.learner, copy.deepcopy(case.current)
    tolerance = case.tolerance(noise, batch.next_obs)
    assert tolerance < 2e-5  # far less than guidance does
    for i in range(UTD):
        batch, noise = draw(sizes, SEED + i, BATCH, config.gamma)
        chunk, learner, metrics = program(learner, case.policy.params, batch, noise)
        expected = case.reference_decode(noise, batch.next_obs)
        np.testing.assert_allclose(chunk, expected, rtol=0, atol=tolerance)
        x, obs = double(noise, batch.next_obs)
        unguided = ref.decode(case.net, x, obs, case.table)
        assert np.abs(expected - unguided).max() > 1e-3  # guidance is felt
        error = case.reference_step(batch, expected)
        np.testing.assert_allclose(metrics["train/td_error_mean"], error, rtol=1e-4)
    case.assert_same_critics(learner.critic)
    first, now = (arrays(module)["qf0.0.weight"] for module in (before, case.current))
    assert np.abs(now - first).max() > 5e-4  # learning is felt


@pytest.mark.slow
@pytest.mark.parametrize("row", CASES, ids=lambda row: "-".join(map(str, row)))
def test_act_and_a_whole_training_call_agree_with_torch(row):
    case = make_case(row)
    sizes, learner, params = case.sizes, case.learner, case.policy.params
    batch, noise = draw(sizes, 0, ROWS)
    inputs = act_inputs(batch.obs, noise)
    found = jax.jit(case.method.act)(learner, params, inputs).chunk
    expected = case.reference_decode(noise, batch.obs)
    tolerance = case.tolerance(noise, batch.obs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)

    example = replay_lib.example_transition(sizes.obs, sizes.chunk * sizes.act)
    store = replay_lib.init_replay(64, example)
    store = replay_lib.add(store, draw(sizes, 1, 60)[0])
    store = replay_lib.add(store, draw(sizes, 2, 4)[0])
    key = jax.random.key(KEY)
    what = make_draw(case.config)
    call = call_on_ring(case.method, what)
    after, _ = jax.jit(call)(learner, store, params, key, 0)
    sample_key, noise_key = jax.random.split(key)
    batches = replay_lib.sample(store, sample_key, (UTD, BATCH), what.window)
    goes_on = batches.discount > 0
    np.testing.assert_allclose(batches.discount, case.config.gamma * goes_on)
    assert 0 < goes_on.sum() < goes_on.size
    noises = jax.random.normal(noise_key, (UTD, BATCH, sizes.chunk, sizes.act))
    errors = []
    for i in range(UTD):
        batch = jax.tree.map(lambda leaf, i=i: leaf[i], batches)
        chunk = case.reference_decode(noises[i], batch.next_obs)
        errors.append(case.reference_step(batch, chunk))
    np.testing.assert_allclose(after.td_error, np.mean(errors), rtol=1e-4)
    case.assert_same_critics(after.critic)


@pytest.mark.parametrize("task", SIZES)
@pytest.mark.parametrize("fine_tuned", [False, True])
def test_plain_sampling_agrees_with_torch(task, fine_tuned):
    sizes = SIZES[task]
    nets = [ref.make_net(sizes, "residual", seed) for seed in range(1 + fine_tuned)]
    policy = make_policy(task, nets)
    batch, noise = draw(sizes, 0, ROWS)
    nets = [net.double() for net in nets]
    x, obs = double(noise, batch.obs)
    for steps in (4, 8):
        table = ref.ddim_table(sizes.train_steps, steps)
        expected = ref.decode(
            ref.mixed(nets[0], nets[-1], table, FT_STEPS), x, obs, table
        )
        found = policy.sample(batch.obs, noise, steps)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
