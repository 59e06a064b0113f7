"""Trains an agent for a Gymnasium task partly: who demonstrates there.

Proximal policy optimisation (Schulman et al. 2017) with clipped ratios and generalised
advantages, whose gradient steps are small: a simulated step costs as much as one. It
stops where its return is that of a mediocre policy.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import check_fields, count, each, number
from dynvgd_jax.core.types import PyTree
from dynvgd_jax.demos.gym_agent import (
    Agent,
    forward,
    fresh_layers,
    save_agent,
    scale_obs,
)
from dynvgd_jax.demos.gym_play import check_gym_task, play
from dynvgd_jax.envs import base as envs
from dynvgd_jax.envs.rollout import EVAL_STREAM, TRAIN_STREAM, episode_seed
from dynvgd_jax.runs.settings import write_config, write_versions
from dynvgd_jax.runs.terminal import Progress, job, print_next

FIELDS = {
    "task": check_gym_task,
    "seed": number(0, 2**31 - 1),
    "returns": each(number(-1e12, 1e12), least=1),
    "total_env_steps": count(1),
    "num_envs": number(1, 4096),
    "horizon": count(1),
    "epochs": count(1),
    "batch_size": count(1),
    "learning_rate": number(0.0, 1.0),
    "gamma": number(0.0, 1.0),
    "gae_lambda": number(0.0, 1.0),
    "clip": number(0.0, 1.0),
    "width": number(1, 65536),
    "depth": number(1, 8),
    "eval.episodes": count(1),
    "eval.every_env_steps": count(1),
    "env.num_threads": number(0, 4096),
}
_VALUE_SHARE = 0.5  # of the value's squared error in the loss
_LARGEST_GRADIENT = 0.5  # 2-norm to which gradients are clipped
_ADAM_EPS = 1e-5
_EPS = 1e-8
_RECENT = 20  # episodes whose mean return is shown


class Weights(NamedTuple):
    """What learns."""

    policy: PyTree  # layers
    value: PyTree  # layers
    log_std: Any  # [Da]


class Batch(NamedTuple):
    """Steps of a rollout, leading axes `[...]`."""

    obs: Any  # [..., Do] scaled
    unit: Any  # [..., Da] as drawn, before the clip
    log_prob: Any  # [...] of the policy that drew it
    advantage: Any  # [...]
    returns: Any  # [...] what the value shall predict


class Running:
    """Mean and variance of all rows so far (Chan et al. 1979)."""

    def __init__(self, size: tuple[int, ...] = ()):
        self.mean, self.var, self.count = np.zeros(size), np.ones(size), 1e-4

    def add(self, rows: np.ndarray) -> None:
        """Takes rows `[n, *size]` in."""
        delta, total = rows.mean(0) - self.mean, self.count + len(rows)
        squares = self.var * self.count + rows.var(0) * len(rows)
        squares = squares + np.square(delta) * self.count * len(rows) / total
        self.mean = self.mean + delta * len(rows) / total
        self.var, self.count = squares / total, total

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.var + _EPS)


def advantages(
    delta: np.ndarray, over: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """Returns `A_t = delta_t + gamma lambda A_t+1`, which ends where episodes do.

    Args:
      delta: `[T, N]` errors of the value, one step ahead.
      over: `[T, N]` bool, the episode ended with this step, for whatever reason.
      gamma: discount.
      gae_lambda: of Schulman et al. 2016.
    """
    found, following = np.zeros_like(delta), np.zeros(delta.shape[1])
    for t in range(len(delta) - 1, -1, -1):
        following = delta[t] + gamma * gae_lambda * ~over[t] * following
        found[t] = following
    return found


def ppo_loss(weights: Weights, batch: Batch, clip: float) -> jax.Array:
    """Returns the clipped surrogate's loss plus half the value's squared error, `[]`.

    Advantages are standardised within the batch.
    """
    mean = forward(weights.policy, batch.obs, jnp.tanh)
    log_prob = gaussian_log_prob(batch.unit, mean, weights.log_std, jnp)
    ratio = jnp.exp(log_prob - batch.log_prob)
    advantage = batch.advantage - jnp.mean(batch.advantage)
    advantage = advantage / (jnp.std(batch.advantage) + _EPS)
    kept = jnp.minimum(
        ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage
    )
    value = forward(weights.value, batch.obs, jnp.tanh)[..., 0]
    error = jnp.mean(jnp.square(value - batch.returns))
    return _VALUE_SHARE * error - jnp.mean(kept)


def gaussian_log_prob(x: Any, mean: Any, log_std: Any, numpy: Any = np) -> Any:
    """Returns the log-density `[B]` of `x [B, D]`; `numpy` is NumPy or JAX's."""
    log_std = log_std[None]
    z = (x - mean) / numpy.exp(log_std)
    return -0.5 * numpy.sum(z * z + 2 * log_std + np.log(2 * np.pi), axis=-1)


@jax.jit(static_argnums=(0, 1), donate_argnums=(2, 3))
def _update(optimizer, clip, weights: Weights, opt_state, batches: Batch):
    """A gradient step for each of the batches `[n, B, ...]`."""

    def step(carry, batch):
        weights, opt_state = carry
        grads = jax.grad(ppo_loss)(weights, batch, clip)
        updates, opt_state = optimizer.update(grads, opt_state, weights)
        return (optax.apply_updates(weights, updates), opt_state), None

    return jax.lax.scan(step, (weights, opt_state), batches)[0]


def train_agent(config: ConfigDict, workdir: str | Path) -> list[float]:
    """Trains as `config` says (configs/hopper_agent.py); returns the returns reached.

    Whenever the mean return of an evaluation first reaches one of `config.returns`, the
    agent is written to `workdir/agent<number>.npz`, counted from 1; after the last the
    training ends.

    Raises:
      UserError: bad fields, no such environment, or the budget ends before that.
    """
    check_agent_config(config)
    workdir = Path(workdir)
    run = _Run(config)
    workdir.mkdir(parents=True, exist_ok=True)
    write_config(workdir, config)
    write_versions(workdir)
    wanted, reached, begun = sorted(config.returns), [], time.monotonic()
    due = config.eval.every_env_steps
    try:
        with Progress(config.total_env_steps) as bar:
            while len(reached) < len(wanted):
                if run.env_steps >= config.total_env_steps:
                    raise UserError(
                        f"reached returns of {reached} in {run.env_steps:,} control "
                        f"steps, expected {wanted}; raise total_env_steps, or give "
                        "another seed"
                    )
                run.iterate()
                bar.update(run.env_steps, mean_return=run.recent())
                if run.env_steps < due:
                    continue
                due += config.eval.every_env_steps
                found = run.evaluate()
                minutes = (time.monotonic() - begun) / 60
                bar.message(
                    f"{run.env_steps:,} control steps, {minutes:.1f} min: mean return "
                    f"{found:.1f} of {config.eval.episodes} episodes"
                )
                while len(reached) < len(wanted) and found >= wanted[len(reached)]:
                    reached.append(found)
                    save_agent(workdir / f"agent{len(reached)}.npz", run.agent())
    finally:
        run.close()
    print(f"wrote {len(reached)} agents to {workdir}, of returns {reached}")
    print_next(job(config.task, "demos", f"--config.agents={workdir}"))
    return reached


def check_agent_config(config: ConfigDict) -> None:
    """Raises UserError where the configuration of an agent makes no sense."""
    check_fields(config, FIELDS)
    collected = config.horizon * config.num_envs
    if collected < config.batch_size:
        raise UserError(
            f"config.batch_size: found {config.batch_size}, expected at most horizon x "
            f"num_envs, the {collected} control steps of a round"
        )


class _Run:
    """A training under way."""

    def __init__(self, config: ConfigDict):
        self.config, self.env_steps = config, 0
        self.env = envs.make_env(config, None, config.num_envs)
        self.eval_env = envs.make_env(config, None, config.eval.episodes)
        obs_dim, action_dim, *_ = self.env.sizes
        key = jax.random.key(config.seed)
        hidden = [config.width] * config.depth
        self.weights = Weights(
            policy=fresh_layers(
                jax.random.fold_in(key, 0), (obs_dim, *hidden, action_dim), 0.01
            ),
            value=fresh_layers(jax.random.fold_in(key, 1), (obs_dim, *hidden, 1), 1.0),
            log_std=jnp.full(action_dim, -0.5),
        )
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(_LARGEST_GRADIENT),
            optax.adam(config.learning_rate, eps=_ADAM_EPS),
        )
        self.opt_state = self.optimizer.init(self.weights)
        self.rng = np.random.default_rng(config.seed)
        self.obs_scale, self.return_scale = Running((obs_dim,)), Running()
        self.everyone = np.arange(config.num_envs)
        self.lengths = np.zeros(config.num_envs, int)
        self.totals, self.finished = np.zeros(config.num_envs), []
        self.discounted = np.zeros(config.num_envs)  # return so far, scale of rewards
        self.episodes = 0
        self._reset(self.everyone)

    def _reset(self, indices: np.ndarray) -> None:
        numbers = range(self.episodes, self.episodes + len(indices))
        self.episodes += len(indices)
        seeds = [episode_seed(TRAIN_STREAM, self.config.seed, n) for n in numbers]
        self.env.reset(indices, np.array(seeds))
        for values in (self.lengths, self.totals, self.discounted):
            values[indices] = 0

    def iterate(self) -> None:
        """A rollout of `horizon` control steps in every environment, and its epochs."""
        config, agent = self.config, self.agent()
        weights = jax.device_get(self.weights)
        steps = [self._step(agent) for _ in range(config.horizon)]
        raw, unit, log_prob, reward, following, terminated, over = map(
            np.stack, zip(*steps, strict=True)
        )
        scale = (agent.obs_mean, agent.obs_std)
        obs = scale_obs(raw, *scale)
        value = forward(weights.value, obs)[..., 0]
        after = forward(weights.value, scale_obs(following, *scale))[..., 0]
        reward = reward / self.return_scale.std
        # past the time limit, though not past an end of the task's own
        delta = reward + config.gamma * ~terminated * after - value
        advantage = advantages(delta, over, config.gamma, config.gae_lambda)
        parts = (obs, unit, log_prob, advantage, advantage + value)
        whole = Batch(*(p.reshape(-1, *p.shape[2:]).astype(np.float32) for p in parts))
        self.obs_scale.add(raw.reshape(-1, raw.shape[-1]))
        size = len(whole.obs) // config.batch_size * config.batch_size
        order = np.concatenate(
            [self.rng.permutation(len(whole.obs))[:size] for _ in range(config.epochs)]
        ).reshape(-1, config.batch_size)
        batches = jax.tree.map(lambda leaf: leaf[order], whole)
        self.weights, self.opt_state = _update(
            self.optimizer, config.clip, self.weights, self.opt_state, batches
        )

    def _step(self, agent: Agent) -> Sequence[np.ndarray]:
        """One control step in every environment; what `iterate` stacks."""
        obs = self.env.raw_obs.copy()
        scaled = scale_obs(obs, agent.obs_mean, agent.obs_std)
        mean = forward(agent.layers, scaled)
        unit = mean + np.exp(agent.log_std) * self.rng.normal(size=mean.shape)
        result = self.env.step(self.everyone, agent.raw_action(unit)[:, None])
        reward, ended = result.reward[:, 0].astype(np.float64), result.ended
        self.env_steps += len(obs)
        self.lengths += 1
        self.totals += reward
        self.discounted = self.config.gamma * self.discounted + reward
        self.return_scale.add(self.discounted)
        over = ended | (self.lengths >= self.env.sizes.max_episode_env_steps)
        following = self.env.raw_obs.copy()
        if over.any():
            self.finished += self.totals[over].tolist()
            self._reset(np.flatnonzero(over))
        log_prob = gaussian_log_prob(unit, mean, agent.log_std)
        return obs, unit, log_prob, reward, following, ended, over

    def recent(self) -> float | None:
        """The mean return of the last episodes, None before the first."""
        return float(np.mean(self.finished[-_RECENT:])) if self.finished else None

    def agent(self) -> Agent:
        """The agent as it is now."""
        weights = jax.device_get(self.weights)
        scale = (self.obs_scale.mean, self.obs_scale.std)
        bounds = self.env.action_bounds
        return Agent(weights.policy, weights.log_std, *scale, *bounds)

    def evaluate(self) -> float:
        """The mean return on the evaluation's episodes, actions drawn."""
        numbers = range(self.config.eval.episodes)
        seeds = [episode_seed(EVAL_STREAM, self.config.seed, n) for n in numbers]
        episodes = play(self.eval_env, self.agent(), seeds)
        return float(np.mean([e.rewards.sum(dtype=np.float64) for e in episodes]))

    def close(self) -> None:
        self.env.close()
        self.eval_env.close()
