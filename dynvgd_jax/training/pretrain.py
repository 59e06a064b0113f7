"""Trains a base policy on demonstrations and evaluates it as it goes."""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core import precision
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import (
    COUNT_END,
    check_choice,
    check_fields,
    check_range,
    get_field,
)
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.core.precision import with_precision
from dynvgd_jax.core.scores import judged_by_return
from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.demos.dataset import Dataset, load_dataset, split_chunks
from dynvgd_jax.diffusion import cloning
from dynvgd_jax.diffusion.base import Spec, sample
from dynvgd_jax.diffusion.kinds import KINDS
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import save_policy
from dynvgd_jax.envs import base as envs_base
from dynvgd_jax.envs.base import VectorEnv, check_task
from dynvgd_jax.envs.rollout import evaluate, evaluation_seeds
from dynvgd_jax.runs.metrics import MetricsLog
from dynvgd_jax.runs.report import evaluation_line, print_results
from dynvgd_jax.runs.summary import Summary, measures, shown, summarise
from dynvgd_jax.runs.terminal import Progress, curves, print_next, with_policy
from dynvgd_jax.steering.noise import START_NOISES, start_noise

# Uses of the run's key.
INIT_KEY, TRAIN_KEY, VALIDATION_KEY = range(3)
POLICY, SNAPSHOTS = "policy", "snapshots"
_UNIT = "gradient steps"

MakeEnv = Callable[[Normalization, int], VectorEnv]


def pretrain(
    config: ConfigDict, workdir: str | Path, make_env: MakeEnv | None = None
) -> list[Summary]:
    """Runs one pre-training and returns its evaluations in order.

    The policy, the running mean of the weights, is written to `workdir/policy`, and
    to `workdir/snapshots/<gradient steps>` at each evaluation before the last.

    Args:
      config: as `configs/can_pretrain.py` describes.
      workdir: new folder for everything that the run writes.
      make_env: (normalisation, number of environments) -> environments, where they
        are not those of `envs.base`.

    Raises:
      UserError: bad configuration or demonstrations, the folder is taken, or the loss
        is no longer finite.
    """
    check_config(config)
    filter_key = get_field(config, "dataset_filter_key")
    data = load_dataset(config.dataset, config.task, filter_key=filter_key)
    make_env = make_env or functools.partial(envs_base.make_env, config)
    run = _Run(config, Path(workdir), data, make_env)
    try:
        run.learn()
    finally:
        run.close()
    if run.summaries:
        print_results(run.summaries, unit=_UNIT)
    policy = Path(workdir) / POLICY
    # other episodes than those of its own evaluations
    then = with_policy(config.task, config.policy_kind, policy, config.eval.seed + 1)
    print_next({"curves": curves(Path(workdir))} | then)
    return run.summaries


def check_config(config: ConfigDict) -> None:
    """Raises UserError where a pre-training configuration makes no sense."""
    ranges = {
        "seed": (0, 2**31 - 1),
        "num_steps": (1, COUNT_END),
        "num_train_timesteps": (2, 100_000),
        "batch_size": (1, COUNT_END),
        "chunk_len": (1, 1000),
        "learning_rate": (0.0, 1.0),
        "min_learning_rate": (0.0, 1.0),
        "weight_decay": (0.0, 1.0),
        "warmup_steps": (0, COUNT_END),
        "ema_decay": (0.0, 1.0),
        "ema_every_steps": (1, COUNT_END),
        "ema_start_step": (0, COUNT_END),
        "validation_share": (0.0, 0.9),
        "log.every_steps": (1, COUNT_END),
        "eval.episodes": (0, COUNT_END),
        "eval.every_steps": (1, COUNT_END),
        "eval.num_envs": (1, 4096),
        "eval.seed": (0, 2**31 - 1),
        "eval.ddim_steps": (1, 100),
        "env.num_threads": (0, 4096),
    }
    missing = [f for f in ranges if f.split(".")[0] not in config]
    if missing:
        raise UserError(
            f"found no config.{missing[0]}, expected a pre-training configuration; "
            "start from configs/can_pretrain.py"
        )
    for field, bounds in ranges.items():
        check_range(field, get_field(config, field), *bounds)
    check_task("task", config.task)
    check_choice("policy_kind", get_field(config, "policy_kind"), KINDS)
    check_choice("eval.noise", config.eval.noise, START_NOISES)
    check_fields(config, precision.FIELDS)


class _Run:
    """One run's state: weights on the device, environments, files."""

    def __init__(
        self, config: ConfigDict, workdir: Path, data: Dataset, make_env: MakeEnv
    ):
        self.config, self.workdir, self.data = config, workdir, data
        training, validation = split_chunks(
            data, config.chunk_len, config.validation_share, config.seed
        )
        self.kind, self.spec = KINDS[config.policy_kind], _read_spec(config, data)
        self.decode = self._make_decode()
        self.env = None
        if config.eval.episodes:  # first, because a misfit should not wait for XLA
            num_envs = min(config.eval.num_envs, config.eval.episodes)
            self.env = make_env(data.normalization, num_envs)
            self._policy(None, {}).require_fit(*self.env.sizes[:3])
        fields = (field.name for field in dataclasses.fields(cloning.Recipe))
        self.recipe = cloning.Recipe(**{name: config[name] for name in fields})
        key = jax.random.key(config.seed)
        init_key, self.train_key, validation_key = (
            jax.random.fold_in(key, use)
            for use in (INIT_KEY, TRAIN_KEY, VALIDATION_KEY)
        )
        self.state = cloning.init_state(self.kind, self.spec, self.recipe, init_key)
        self.chunks = jax.device_put(training)
        self.validate = None
        if validation is not None:
            self.validate = cloning.make_validation(
                self.kind,
                self.spec,
                validation,
                validation_key,
                precision=config.precision,
            )
        self.log = MetricsLog(workdir, config)
        self.progress = Progress(config.num_steps, unit=_UNIT)
        self.progress.__enter__()
        self.measure: dict[str, float] = {}  # as `Progress.update` takes it
        # whoever judges by return wants it as it is
        self.reward_offset = 0.0 if judged_by_return(config.task) else 1.0
        self.summaries: list[Summary] = []

    def close(self) -> None:
        """Ends the environments' threads and closes the files."""
        self.progress.__exit__(None, None, None)
        self.log.close()
        if self.env is not None:
            self.env.close()

    def learn(self) -> None:
        """Takes all gradient steps; evaluates and saves on the way and at the end."""
        config, step, metrics = self.config, 0, {}
        self.progress.message(
            f"{len(self.data.lengths)} trajectories, {len(self.chunks.starts):,} "
            f"training chunks, "
            f"{sum(p.size for p in jax.tree.leaves(self.state.params)):,} weights"
        )
        while step < config.num_steps:
            stops = [
                (step // every + 1) * every
                for every in (config.log.every_steps, config.eval.every_steps)
            ]
            stop = min(*stops, config.num_steps)
            statics = (self.kind, self.spec, self.recipe, config.precision)
            arguments = (self.state, self.train_key, self.chunks, stop - step)
            self.state, loss = _update(*statics, *arguments)
            step = stop
            metrics = self._log(step, loss)
            last = step == config.num_steps
            if last or step % config.eval.every_steps == 0:
                metrics |= self._evaluate(step)
                folder = Path(POLICY) if last else Path(SNAPSHOTS, str(step))
                save_policy(
                    self.workdir / folder, self._policy(self.state.ema_params, metrics)
                )
            self.progress.update(step, **self.measure, stage=_stage(metrics))

    def _log(self, step: int, loss: jax.Array) -> dict[str, float]:
        values = {"pretrain/loss": float(loss)}
        if self.validate is not None:
            values["pretrain/validation_loss"] = float(
                self.validate(self.state.ema_params)
            )
        broken = [name for name, value in values.items() if not np.isfinite(value)]
        if broken:
            raise UserError(
                f"pre-training diverged: {', '.join(broken)} not finite after {step:,} "
                "gradient steps; lower learning_rate"
            )
        self.log.scalars(step, values)
        return {"gradient_steps": step} | values

    def _evaluate(self, step: int) -> dict[str, float]:
        """Success of the mean weights on the fixed seeds; nothing without episodes."""
        if self.env is None:
            return {}
        config, name = self.config.eval, f"base/{self.config.eval.noise}"
        judged = {"task": self.config.task, "reward_offset": self.reward_offset}
        start, done = time.monotonic(), []

        def progress(result: EpisodeResult) -> None:
            done.append(result)
            part.update(len(done), **shown(done, **judged))

        with self.progress.part(f"evaluating {name}", config.episodes) as part:
            results = evaluate(
                self.env,
                functools.partial(self.decode, self.state.ema_params),
                evaluation_seeds(config.seed, config.episodes),
                progress=progress,
                reward_offset=self.reward_offset,
            )
        summary = summarise(step, name, results, **judged)
        seconds = time.monotonic() - start
        self.progress.message(evaluation_line(summary, seconds, unit=_UNIT))
        self.summaries.append(summary)
        self.log.episodes(step, summary.policy, results)
        rate = summary.success_chunk / summary.episodes
        self.measure = {"success": rate}
        if summary.returns is not None:
            self.measure = {"mean_return": summary.returns[0]}
        values = measures("eval", summary) | {
            "eval/success_any_rate": summary.success_any / summary.episodes,
            "eval/reward": summary.mean_return,
            "eval/timesteps": summary.mean_length,
        }
        self.log.scalars(step, values)
        return values | {"eval/episodes": summary.episodes}

    def _policy(self, params, metrics: dict[str, float]) -> Policy:
        return Policy(
            network=self.spec.network,
            params=params,
            num_train_timesteps=self.spec.num_train_timesteps,
            normalization=self.data.normalization,
            task=self.config.task,
            metadata={
                "dataset": self.data.source,
                "trajectories": len(self.data.lengths),
                "config": self.config.to_dict() | {"dataset": self.data.source["file"]},
                "metrics": metrics,
            },
            kind=self.config.policy_kind,
        )

    def _make_decode(self):
        config, precision = self.config.eval, self.config.precision
        denoiser = self.kind.denoiser(self.spec, config.ddim_steps)
        denoise = with_precision(functools.partial(sample, denoiser), precision)
        shape = (self.spec.network.chunk_len, self.spec.network.action_dim)
        key = jax.random.key(config.seed)

        @jax.jit
        def decode(params, obs, seeds, chunk_index):
            noise = start_noise(config.noise, key, seeds, chunk_index, shape)
            return denoise(params, noise, obs)

        return decode


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def _update(kind, spec, recipe, precision, state, key, chunks, num_steps):
    # At module level: runs that differ in data and seed only share the compilation.
    update = cloning.make_update(kind, spec, recipe)
    return with_precision(update, precision)(state, key, chunks, num_steps)


def _read_spec(config: ConfigDict, data: Dataset) -> Spec:
    """What the configuration describes, with the sizes of the data."""
    sizes = {"obs_dim": data.obs.shape[1], "action_dim": data.actions.shape[1]}
    sizes["chunk_len"] = config.chunk_len
    described = config.to_dict() | {"network": config.network.to_dict() | sizes}
    try:
        return KINDS[config.policy_kind].read(described)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"config.network: {error}") from error


def _stage(metrics: dict[str, float]) -> str:
    loss = metrics.get("pretrain/validation_loss", metrics["pretrain/loss"])
    kind = "validation" if "pretrain/validation_loss" in metrics else "training"
    return f"{kind} loss {loss:.4f}"
