"""What guidance does to the success of trained critics, one change at a time.

  python -m benchmarks.guidance runs/can_ddim8-quick-seed0 \
      --variant guidance.scale=0 \
      --variant guidance.candidates=1 acting_noise=randn \
      --variant method=vgd \
      --variant guidance.scale=0.02 weight=shuffled

Evaluates the critics of finished runs (their newest checkpoints, or those of
`<run>/checkpoints/<control steps>`) as they were trained and with each variant's fields
changed, all on the same episodes and start noises. Several runs are seeds of one
setting; with --together the critics of all steer as one ensemble, which has learned
from the data of all. Prints for each variant the mean success of a whole chunk over the
runs, with the results tables' 95 % interval (one run: Wilson's, several: t over runs),
its difference from the first line, with a 95 % bootstrap interval over episodes, each
run's own success, and means of `guide/*` scalars: w, the norm of a guided step
(normalised action units, over the chunk), what it gains by Q. Beside fields a variant
may have one of the weights of `benchmarks/weights.py`.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.progress import track
from rich.table import Table

from benchmarks import weights
from dynvgd_jax.agent import find_checkpoint, load_agent
from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.jax_start import run_on_devices
from dynvgd_jax.envs import base as envs_base
from dynvgd_jax.envs.rollout import evaluate, evaluation_seeds
from dynvgd_jax.evaluate.play import steered_act
from dynvgd_jax.runs.report import episodes_text, runs_text
from dynvgd_jax.runs.settings import read_config
from dynvgd_jax.runs.terminal import print_table
from dynvgd_jax.steering.critics.td import CriticState
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.steering.vgd import LearnerState

SCALARS = ("weight_mean", "delta_norm", "delta_q", "candidate_gain")


def parse_fields(texts, flag="--variant"):
    """Returns `{field: value}` of `field=value` texts, values as JSON or else text."""
    fields = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{flag}: found {text!r}, expected field=value")
        try:
            fields[name] = json.loads(value)
        except json.JSONDecodeError:
            fields[name] = value
    return fields


def _fields_and_weight(variant):
    """A variant's fields, and its weight of benchmarks/weights.py or None."""
    fields = parse_fields(variant)
    for name in ("eval.seed", "eval.episodes"):
        if name in fields:
            raise UserError(
                f"--variant: found {name}, but all lines have the same episodes; "
                f"expected --{name.partition('.')[2]} in its place"
            )
    if "weight" not in fields:
        return fields, None
    texts = (text.partition("=") for text in variant)
    weight = next(value for name, _, value in texts if name == "weight")
    weights.parse_weight(weight)
    del fields["weight"]
    return fields, weight


def play(agent, env, seeds, label):
    """Returns whether each episode succeeded, and the mean of each `guide/*` scalar."""
    scalars = []
    act = steered_act(agent, scalars.append)
    bar = iter(track(seeds, description=label, transient=True))
    results = evaluate(env, act, seeds, progress=lambda _: next(bar, None))
    names = scalars[0].keys()
    fetched = jax.device_get(scalars)
    means = {n: float(np.mean([s[n] for s in fetched])) for n in names}
    return np.array([r.success_chunk for r in results]), means


def _acting(config):
    """What `config.critic` says of critics that act, and not of how they learn."""
    return config.critic.to_dict() | {"num": None, "groups": None}


def together(agents):
    """Returns the first agent with the critics of all, whose mean TD error it has.

    Raises:
      UserError: one of them learns no critics, or something beside them, or theirs are
        of another kind or size.
    """
    config = ConfigDict(agents[0].config.to_dict())
    for agent in agents:
        if not isinstance(agent.learner, LearnerState):
            raise UserError(
                f"--together: found method {agent.config.method!r}, expected one that "
                "learns nothing but critics of chunks"
            )
        if _acting(agent.config) != _acting(agents[0].config):
            raise UserError("--together: found critics of several kinds or sizes")
    config.critic.num = sum(agent.config.critic.num for agent in agents)
    config.critic.groups = 1  # nothing learns here
    critics = [agent.learner.critic for agent in agents]

    def stack(name):
        trees = [getattr(critic, name) for critic in critics]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *trees)

    critic = CriticState(stack("params"), stack("target_params"), None)
    error = np.mean([agent.learner.td_error for agent in agents], dtype=np.float32)
    return dataclasses.replace(
        agents[0],
        config=config,
        method=build_method(config, agents[0].policy),
        learner=agents[0].learner._replace(critic=critic, td_error=error),
    )


def require_one_task(runs):
    """Raises UserError where the runs are of different tasks."""
    tasks = {str(run): read_config(find_checkpoint(run)[0]).task for run in runs}
    if len(set(tasks.values())) > 1:
        found = ", ".join(f"{run}: {task}" for run, task in tasks.items())
        raise UserError(f"found {found}; expected runs of one task")


def load_agents(options, changes):
    """Yields what steers, with the name it is shown as: each run, or all as one."""
    fields = {"env.num_threads": options.num_threads} | changes
    if options.seed is not None:
        fields["eval.seed"] = options.seed
    if options.together:
        agents = [load_agent(run, fields) for run in options.runs]
        yield " + ".join(run.name for run in options.runs), together(agents)
        return
    for run in options.runs:
        yield run.name, load_agent(run, fields)


def env_for_agent(agent, num_envs):
    """Returns the environments of an agent's task."""
    agent.policy.require_task(agent.config.task)
    return envs_base.make_env(agent.config, agent.policy.normalization, num_envs)


def main(arguments=None, make_env=env_for_agent):
    """Reads the command line, prints the table, returns success by variant and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=expand)
    parser.add_argument("--variant", nargs="+", action="append", default=[])
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seed", type=int, help="eval.seed, by default the run's own")
    parser.add_argument("--num_envs", type=int, default=20)
    parser.add_argument("--together", action="store_true", help="as one ensemble")
    parser.add_argument("--num_threads", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in ("episodes", "num_envs"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}: found {getattr(options, name)}, expected 1 up")
    variants = [[], *options.variant]
    for variant in variants:  # before anything is played
        _fields_and_weight(variant)
    table = Table(title=f"{options.episodes} episodes, {len(options.runs)} run(s)")
    for heading in ("variant", "success", "gain", "of each run", *SCALARS):
        table.add_column(heading)
    require_one_task(options.runs)
    env, first, found = None, None, {}
    for variant in variants:
        label = " ".join(variant) or "as trained"
        wins, scalars = [], []
        changes, weight = _fields_and_weight(variant)
        for name, agent in load_agents(options, changes):
            if env is None:
                env = make_env(agent, options.num_envs)
            seeds = evaluation_seeds(agent.config.eval.seed, options.episodes)
            with weights.using(weight, agent) if weight else contextlib.nullcontext():
                won, means = play(agent, env, seeds, f"{label}, {name}")
            if weight and "guide/weight_mean" not in means:
                raise UserError(
                    f"weight={weight}: no step is guided; give guidance.scale"
                )
            wins.append(won)
            scalars.append(means)
        found[label] = wins
        success = np.mean(wins, axis=0)
        text = runs_text([int(won.sum()) for won in wins], options.episodes)
        first = success if first is None else first
        table.add_row(
            label,
            text,
            "" if first is success else episodes_text(success - first),
            " ".join(f"{won.mean():.3f}" for won in wins),
            *(
                f"{np.mean([s[f'guide/{n}'] for s in scalars]):.3g}"
                if f"guide/{n}" in scalars[0]
                else ""
                for n in SCALARS
            ),
        )
        print(label, text, flush=True)
    env.close()
    print_table(table)
    return found


if __name__ == "__main__":
    sys.exit(run_on_devices("guidance.py", main))
