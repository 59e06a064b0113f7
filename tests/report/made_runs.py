"""Run folders with known outcomes and curves, written as a run writes them."""

import numpy as np

from configs import base
from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.runs import metrics
from dynvgd_jax.runs.metrics import MetricsLog

EPISODES = 10
START_S = 1_000_000.0


def make_config(**changes):
    config = base.get_config()
    config.eval.episodes = EPISODES
    config.total_env_steps = 2000
    config.first_rollout_env_steps = 0
    config.update_from_flattened_dict(changes)
    return config.lock()


class Clock:
    """Stands in for the module `time` of what writes the curves."""

    def __init__(self, now=START_S):
        self.now = now

    def time(self):
        return self.now


def outcomes(wins, episodes=EPISODES):
    """Results of the episodes 100, 101, ...; `wins` counts or names the successes."""
    won = set(range(wins)) if isinstance(wins, int) else set(wins)
    return [
        EpisodeResult(100 + i, True, i in won, -300.0 + i, 300, False)
        for i in range(episodes)
    ]


def make_run(
    folder,
    monkeypatch,
    evaluations=((1000, 5), (2000, 8)),
    bases=(("tanh_randn", 6), ("randn", 4)),
    scalars=None,
    seconds_per_step=0.06,
    **changes,
):
    """Writes a run.

    Args:
      folder: new.
      monkeypatch: of the test.
      evaluations: (control steps, successes or successful places) of what is trained.
      bases: (start noise, successes) of the base policy.
      scalars: steps -> {tag: value}.
      seconds_per_step: of the clock; a thousand control steps take a minute.
      changes: to the configuration, by dotted name.
    """
    config = make_config(**changes)
    clock = Clock()
    monkeypatch.setattr(metrics, "time", clock)
    name = f"{config.method}/{config.acting_noise}"
    scalars = scalars or {}
    with MetricsLog(folder, config) as log:
        for noise, wins in bases:
            results = outcomes(wins, config.eval.episodes)
            log.episodes(0, f"base/{noise}", results)
            share = sum(r.success_chunk for r in results) / len(results)
            log.scalars(0, {f"eval_base/{noise}/success_rate": share})
        for steps in sorted({*scalars, *(steps for steps, _ in evaluations)}):
            clock.now = START_S + seconds_per_step * steps
            if steps in scalars:
                log.scalars(steps, scalars[steps])
            for _, wins in (e for e in evaluations if e[0] == steps):
                results = outcomes(wins, config.eval.episodes)
                log.episodes(steps, name, results)
                won = sum(r.success_chunk for r in results)
                log.scalars(steps, {"eval/success_rate": won / len(results)})
    return folder


def learning_scalars(seed, method, steps, total):
    """Curves shaped like those of a run: TD error falls, w rises with it."""
    rng = np.random.default_rng(seed)
    found = {}
    for step in steps:
        td = 12 * np.exp(-3 * step / total) + 2 + 0.4 * rng.standard_normal()
        q = -80 + 50 * (1 - np.exp(-3 * step / total)) + rng.standard_normal()
        values = {
            "train/td_error_mean": td,
            "train/critic_loss": td**2,
            "train/critic_grad_norm": 3 * td,
            "train/q0_mean": q,
            "train/q1_mean": q + 1,
            "train/q_std_inter_critic": td / 4,
            "train/success_rate": min(1, 0.5 + 0.4 * step / total),
            "time/control_steps_per_s": 140 + 10 * rng.standard_normal(),
        }
        if method.startswith("dsrl"):
            values["guide/entropy_coefficient"] = np.exp(-step / total)
        elif method in ("vgd", "dynvgd"):
            weight = 1.0 if method == "vgd" else float(np.exp(-td / 10))
            values |= {
                "guide/lambda_mean": 0.005,
                "guide/weight_mean": weight,
                "guide/grad_norm": 8 + rng.standard_normal(),
                "guide/weighted_grad_norm": 0.04 * weight,
                "guide/cosine": 0.9,
            }
        found[step] = values
    return found
