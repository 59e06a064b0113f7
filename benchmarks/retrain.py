"""Trains fresh critics on the replay buffer of a run, with fields changed.

  python -m benchmarks.retrain runs/square_ddim8-quick-seed2 runs/square-again
  python -m benchmarks.retrain runs/square_ddim8-quick-seed2 runs/square-apart \
      --changes critic.groups=4

Tells how critics learn from what their data are worth: nothing acts, every gradient
step draws from all that the run has stored. As many gradient steps as the run took,
unless --updates says otherwise. The new folder is a run's, whose critics
`benchmarks.guidance` and `python -m dynvgd_jax.evaluate` play.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from rich.progress import track

from benchmarks.guidance import parse_fields
from dynvgd_jax.agent import (
    CHECKPOINTS,
    POLICY,
    SOURCE_FILE,
    checkpoint_tree,
    find_checkpoint,
    load_agent,
)
from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import set_fields
from dynvgd_jax.core.jax_start import run_on_devices
from dynvgd_jax.diffusion.policy_files import save_policy
from dynvgd_jax.replay.log import ReplayLog
from dynvgd_jax.replay.ring import ReplayState, example_transition
from dynvgd_jax.runs.checkpoint import CheckpointStore
from dynvgd_jax.runs.durable import new_folder
from dynvgd_jax.runs.settings import read_config, versions, write_config
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.training.check import check_train
from dynvgd_jax.training.programs import call_on_ring
from dynvgd_jax.training.replay_memory import make_draw
from dynvgd_jax.training.resume import REPLAY, ResumeStore


def with_changes(trained, folder, fields):
    """Returns the agent of a run's configuration with some fields changed.

    Raises:
      UserError: a field is unknown, or its value makes no sense.
    """
    config = ConfigDict(read_config(folder).to_dict()).lock()
    set_fields(config, fields)
    check_train(config, resume=True)
    method = build_method(config, trained.policy)
    return dataclasses.replace(trained, config=config, method=method)


def read_buffer(folder, step, agent):
    """Returns all transitions of a checkpoint's replay buffer.

    Raises:
      UserError: there are none, or they are damaged.
    """
    segments = ResumeStore(folder).read_sound(step).notes["segments"]
    log = ReplayLog(folder / REPLAY, sum(s["rows"] for s in segments), segments)
    rows = sum(segment["rows"] for segment in segments)
    if not rows:
        raise UserError(f"{folder}: found an empty replay buffer at {step:,}")
    method, policy = agent.method, agent.policy
    flat_dim = policy.chunk_len * policy.action_dim
    sizes = (policy.obs_dim, flat_dim, method.extras, method.next_extras)
    data = log.read((rows,), example_transition(*sizes), agent.config.num_envs)
    return ReplayState(
        data=jax.tree.map(jnp.asarray, data),
        cursor=jnp.int32(log.total % rows),
        size=jnp.int32(rows),
    )


def retrain(agent, buffer, seed, updates):
    """Returns the learner after `updates` gradient steps from fresh critics."""
    config, method = agent.config, agent.method
    draw = make_draw(config, method.follows, method.more_batches)
    call = jax.jit(call_on_ring(method, draw), donate_argnums=0)
    init_key, learn_key = (jax.random.fold_in(jax.random.key(seed), n) for n in (7, 1))
    learner = method.init(init_key)
    for number in track(range(-(-updates // config.utd)), "learning"):
        call_key = jax.random.fold_in(learn_key, number)
        where = (agent.policy.params, call_key, config.total_env_steps)
        learner, _ = call(learner, buffer, *where)
        jax.block_until_ready(learner)
    return learner


def write_run(output, agent, learner, step, source):
    """Writes a run's folder with the learner as its only checkpoint."""
    with new_folder(output) as partial:
        write_config(partial, agent.config)
        save_policy(partial / POLICY, agent.policy)
        tree = jax.device_get(checkpoint_tree(learner, step))
        CheckpointStore(partial / CHECKPOINTS).save(step, tree)
        text = json.dumps(source | {"versions": versions()}, indent=2) + "\n"
        (partial / SOURCE_FILE).write_text(text, encoding="utf-8")


def main(arguments=None):
    """Reads the command line, trains, writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=expand)
    parser.add_argument("output", type=expand)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, help="by default the run's own")
    parser.add_argument("--changes", nargs="+", default=[], help="field=value")
    options = parser.parse_args(arguments)
    if options.updates is not None and options.updates < 1:
        raise UserError(f"--updates: found {options.updates}, expected 1 up")
    if Path(options.output).exists():
        raise UserError(f"{options.output} exists already; give another folder")
    folder, step = find_checkpoint(options.run)
    trained = load_agent(folder)
    if trained.method.update is None or trained.config.replay.offline_dataset:
        raise UserError(
            f"{folder}: found method {trained.config.method!r} and "
            f"replay.offline_dataset {trained.config.replay.offline_dataset!r}, "
            "expected a method that learns from its own transitions alone"
        )
    updates = options.updates or int(trained.learner.num_updates)
    agent = with_changes(trained, folder, parse_fields(options.changes))
    buffer = read_buffer(folder, step, agent)
    print(f"{int(buffer.size):,} transitions, {updates:,} gradient steps", flush=True)
    learner = retrain(agent, buffer, options.seed, updates)
    source = {"replay_buffer_of": folder.name, "control_steps": step}
    write_run(options.output, agent, learner, step, source | {"key_seed": options.seed})
    print(f"wrote {options.output}", flush=True)


if __name__ == "__main__":
    sys.exit(run_on_devices("retrain.py", main))
