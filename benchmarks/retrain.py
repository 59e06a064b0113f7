"""Trains fresh critics on the replay buffer of a run, with fields changed.

  python -m benchmarks.retrain runs/square_ddim8-quick-seed2 runs/square-again
  python -m benchmarks.retrain runs/square_ddim8-quick-seed2 runs/square-apart \
      --changes critic.groups=4

Tells how critics learn from what their data are worth: nothing acts, every gradient
step draws from all that the replay buffer of the checkpoint holds (a run's newest, or
`<run>/checkpoints/<control steps>`). As many gradient steps as the run took until then,
unless --updates says otherwise, in whole training calls. Fields of critics, targets and
gradient steps can be changed, nothing that the data rest on. The new folder is a run's
whose critics `benchmarks.guidance` and `python -m dynvgd_jax.evaluate` play; it holds
no replay buffer, so that `--resume` refuses it.
"""

import argparse
import dataclasses
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jax.numpy as jnp
import numpy as np
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
from dynvgd_jax.core.fields import SEED_END, set_fields
from dynvgd_jax.core.jax_start import run_on_devices
from dynvgd_jax.diffusion.policy_files import save_policy
from dynvgd_jax.replay.log import ReplayLog
from dynvgd_jax.replay.ring import ReplayState, example_transition
from dynvgd_jax.runs.checkpoint import CheckpointStore
from dynvgd_jax.runs.durable import new_folder, refuse_existing
from dynvgd_jax.runs.settings import read_config, versions, write_config
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.training.check import check_train
from dynvgd_jax.training.programs import call_on_ring
from dynvgd_jax.training.replay_memory import make_draw
from dynvgd_jax.training.resume import REPLAY, RESUME, ResumeStore

# What may be changed: how stored transitions are learned from.
CHANGEABLE = ("critic.", "guidance.", "target_", "gamma", "learning_rate")
CHANGEABLE += ("batch_size", "utd", "precision")
FIXED = ("guidance.candidates",)


def with_changes(trained, folder, fields):
    """Returns the agent of a run's configuration with some fields changed.

    Raises:
      UserError: a field is unknown, its value makes no sense, or the stored data rest
        on it.
    """
    for name in fields:
        if not name.startswith(CHANGEABLE) or name in FIXED:
            raise UserError(
                f"--changes: found {name}, expected a field of critics, targets or "
                f"gradient steps: {', '.join(CHANGEABLE)}; stored data rest on others"
            )
    config = ConfigDict(read_config(folder).to_dict()).lock()
    set_fields(config, fields)
    check_train(config, resume=True)
    method = build_method(config, trained.policy)
    if _stored(method) != _stored(trained.method):
        raise UserError(
            f"--changes: found {', '.join(fields)}, with which other arrays belong to "
            "a transition than the run has stored"
        )
    return dataclasses.replace(trained, config=config, method=method)


def _stored(method):
    """Names, shapes and types of what is stored beside a transition."""
    beside = (method.extras, method.next_extras)
    return [{n: (a.shape, a.dtype) for n, a in part.items()} for part in beside]


def read_buffer(folder, step, agent):
    """Returns the replay buffer of a checkpoint.

    Raises:
      UserError: there is none, or it is damaged.
    """
    if not (folder / RESUME).is_dir():
        raise UserError(
            f"{folder}: found no {RESUME}/, expected a run with its replay buffer"
        )
    segments = ResumeStore(folder).read_sound(step).notes["segments"]
    rows = sum(segment["rows"] for segment in segments)
    rows = min(rows, agent.config.replay.capacity)  # segments are kept whole
    if not rows:
        raise UserError(f"{folder}: found an empty replay buffer at {step:,}")
    method, policy = agent.method, agent.policy
    flat_dim = policy.chunk_len * policy.action_dim
    sizes = (policy.obs_dim, flat_dim, method.extras, method.next_extras)
    log = ReplayLog(folder / REPLAY, rows, segments)
    data = log.read((rows,), example_transition(*sizes), agent.config.num_envs)
    return ReplayState(
        data=jax.tree.map(jnp.asarray, data),
        cursor=jnp.int32(log.total % rows),
        size=jnp.int32(rows),
    )


def retrain(agent, buffer, seed, calls):
    """Returns the learner after `calls` training calls from fresh critics.

    Raises:
      UserError: it holds values that are not finite.
    """
    config, method = agent.config, agent.method
    draw = make_draw(config, method.follows, method.more_batches)
    call = jax.jit(call_on_ring(method, draw), donate_argnums=0)
    init_key, learn_key = (jax.random.fold_in(jax.random.key(seed), n) for n in (7, 1))
    learner = method.init(init_key)
    for number in track(range(calls), "learning"):
        call_key = jax.random.fold_in(learn_key, number)
        where = (agent.policy.params, call_key, config.total_env_steps)
        learner, _ = call(learner, buffer, *where)
        jax.block_until_ready(learner)
    learner = jax.device_get(learner)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learner)):
        raise UserError("found critics that are not finite; lower learning_rate")
    return learner


def write_run(folder, agent, learner, step, source):
    """Writes what makes `folder` a run's, with the learner as its only checkpoint."""
    write_config(folder, agent.config)
    save_policy(folder / POLICY, agent.policy)
    CheckpointStore(folder / CHECKPOINTS).save(step, checkpoint_tree(learner, step))
    text = json.dumps(source | {"versions": versions()}, indent=2) + "\n"
    (folder / SOURCE_FILE).write_text(text, encoding="utf-8")


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
    if not 0 <= options.seed <= SEED_END:
        raise UserError(f"--seed: found {options.seed}, expected 0 to {SEED_END}")
    refuse_existing(options.output)
    folder, step = find_checkpoint(options.run)
    trained = load_agent(options.run)
    if trained.method.update is None or trained.config.replay.offline_dataset:
        raise UserError(
            f"{folder}: found method {trained.config.method!r} and "
            f"replay.offline_dataset {trained.config.replay.offline_dataset!r}, "
            "expected a method that learns from its own transitions alone"
        )
    updates = options.updates or int(trained.learner.num_updates)
    if not updates:
        raise UserError(
            f"{folder}: found no gradient step at {step:,} control steps; give "
            "--updates, or a later checkpoint"
        )
    agent = with_changes(trained, folder, parse_fields(options.changes, "--changes"))
    buffer, utd = read_buffer(folder, step, agent), agent.config.utd
    calls = -(-updates // utd)
    found = f"{int(buffer.size):,} transitions, {calls * utd:,} gradient steps"
    print(found, flush=True)
    source = {"replay_buffer_of": folder.name, "control_steps": step}
    with new_folder(options.output) as partial:
        learner = retrain(agent, buffer, options.seed, calls)
        write_run(partial, agent, learner, step, source | {"seed": options.seed})
    print(f"wrote {options.output}", flush=True)


if __name__ == "__main__":
    sys.exit(run_on_devices("retrain.py", main))
