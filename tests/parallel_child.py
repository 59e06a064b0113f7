"""Run by tests/test_parallel.py in a process with several virtual CPU devices.

`python -m tests.parallel_child math` prints what training does on 1, 2, 4 and 8
devices; `python -m tests.parallel_child run POLICY FOLDER STEPS` trains in FOLDER, or
resumes there, up to STEPS vector steps. Both print one JSON object.
"""

import hashlib
import json
import sys
from pathlib import Path

import tests.conftest  # noqa: F401  strict shapes, exact products, CPU

# isort: split
import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax import parallel
from dynvgd_jax.diffusion.schedule import cosine_schedule, ddim_schedule
from dynvgd_jax.steering import replay as replay_lib
from dynvgd_jax.steering import td, vgd
from dynvgd_jax.steering.ensemble import CriticEnsemble
from dynvgd_jax.steering.guidance import Guidance
from dynvgd_jax.types import Transition
from tests.steering import toy

UTD, BATCH, ENVS = 2, 16, 8


def make(num_devices):
    config = vgd.VgdConfig(
        Guidance(scale=0.05, last_k=1),
        td.TdConfig(0.9),
        1e-3,
        BATCH // num_devices,
        UTD,
    )
    average = parallel.mean_over_devices if num_devices > 1 else lambda tree: tree
    return vgd.make_vgd(
        config,
        CriticEnsemble(num=3, width=16, depth=1),
        ddim_schedule(cosine_schedule(20), 2),
        toy.make_eps_fn,
        toy.OBS_DIM,
        toy.CHUNK,
        average,
    )


def transitions(seed, *shape):
    rng = np.random.default_rng(seed)
    return Transition(
        obs=np.float32(rng.normal(size=(*shape, toy.OBS_DIM))),
        action=np.float32(rng.uniform(-1, 1, (*shape, toy.FLAT))),
        reward=np.float32(rng.normal(size=shape) - 2),
        next_obs=np.float32(rng.normal(size=(*shape, toy.OBS_DIM))),
        done=np.float32(rng.random(shape) < 0.2),
    )


def learn_from_one_global_batch(num_devices):
    """State and metrics after two training calls on the same global batches."""
    method, params = make(num_devices), toy.to_jax(toy.weights())
    learn = jax.jit(method.learn)
    if num_devices > 1:
        learn = jax.pmap(
            method.learn,
            parallel.AXIS,
            in_axes=(None, None, 1, 1, None),
            out_axes=None,
            devices=jax.local_devices()[:num_devices],
        )
    state = make(1).init(jax.random.key(0))
    for call in range(2):
        batches = transitions(call, UTD, BATCH)
        noise = np.float32(
            np.random.default_rng(9 + call).normal(size=(UTD, BATCH, *toy.CHUNK))
        )
        if num_devices > 1:
            cut = lambda leaf: leaf.reshape(UTD, num_devices, -1, *leaf.shape[2:])  # noqa: E731
            batches, noise = jax.tree.map(cut, (batches, noise))
        state, metrics = learn(state, params, batches, noise, 0)
    return state, metrics


def replicas_equal(tree, num_devices):
    """Whether every leaf has the same bits on all devices."""
    for leaf in jax.tree.leaves(tree):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        if len(copies) != num_devices or copies[0].shape != leaf.shape:
            return False
        if not all(np.array_equal(copy, copies[0]) for copy in copies):
            return False
    return True


def compiled_learning(num_devices):
    """Three training calls as `train.py` makes them: replicas, shards, sizes."""
    method = make(num_devices)
    learning = parallel.compile_learning(
        num_devices, replay_lib.init_replay, replay_lib.add, method.update
    )
    replay = learning.init_replay(98, toy.OBS_DIM, toy.FLAT)
    first = transitions(0, ENVS)
    replay = learning.store(replay, first)
    params, state = toy.to_jax(toy.weights()), method.init(jax.random.key(0))
    for call in range(3):
        key = jax.random.key(call)
        fresh = transitions(call, ENVS)
        state, replay, metrics = learning.update(state, replay, params, fresh, key, 0)
    stored = np.asarray(replay.data.obs)
    rows = ENVS // num_devices
    local = learning.local(state)
    return {
        "replicas_equal": replicas_equal(state, num_devices),
        "num_updates": int(state.num_updates),
        "sizes": np.asarray(replay.size).tolist(),
        "capacity": stored.shape[1],
        "shards": all(
            np.array_equal(stored[i, :rows], first.obs[i * rows : (i + 1) * rows])
            for i in range(num_devices)
        ),
        "replay_devices": len(replay.data.obs.addressable_shards),
        "local_devices": [len(leaf.devices()) for leaf in jax.tree.leaves(local)],
        "finite": all(np.isfinite(value) for value in metrics.values()),
    }


def draws(num_devices):
    """The batch keys of the devices."""
    seen = parallel.compile_learning(
        num_devices,
        replay_lib.init_replay,
        replay_lib.add,
        lambda learner, replay, params, fresh, key, env_steps: (
            learner,
            replay._replace(data=jax.random.bits(key)),
            env_steps,
        ),
    )
    replay = seen.init_replay(num_devices, 1, 1)
    zeros = jnp.zeros(num_devices)
    _, replay, _ = seen.update(zeros[0], replay, zeros, zeros, jax.random.key(0), 0)
    return np.asarray(replay.data).tolist()


def math():
    out = {"devices": jax.local_device_count(), "draws": draws(8), "learning": {}}
    out["compiled"] = compiled_learning(4)
    alone, metrics = learn_from_one_global_batch(1)
    for num_devices in (2, 4, 8):
        state, found = learn_from_one_global_batch(num_devices)
        differences = jax.tree.map(
            lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()),
            (alone.critic.params, alone.critic.target_params, alone.td_error),
            (state.critic.params, state.critic.target_params, state.td_error),
        )
        names = ("train/critic_loss", "train/critic_grad_norm", "train/q0_mean")
        out["learning"][num_devices] = {
            "difference": max(jax.tree.leaves(differences)),
            "metrics": [float(abs(metrics[n] / found[n] - 1)) for n in names],
            "replicas_equal": replicas_equal(state, num_devices),
        }
    start = make(1).init(jax.random.key(0)).critic.params
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), start, alone[0][0])
    out["moved"] = max(jax.tree.leaves(moved))
    return out


def run(policy, folder, vector_steps):
    from dynvgd_jax import load_agent
    from dynvgd_jax.train import train
    from tests.reach import ReachEnv
    from tests.test_train import VECTOR_STEP, tiny

    config = tiny(policy, total_env_steps=int(vector_steps) * VECTOR_STEP)
    train(config, folder, make_env=ReachEnv, resume=Path(folder).exists())
    learner = load_agent(folder).learner
    content = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(learner))
    return {
        "devices": jax.local_device_count(),
        "num_updates": int(learner.num_updates),
        "learner": hashlib.sha256(content).hexdigest(),
    }


def main():
    jobs = {"math": math, "run": run}
    print(json.dumps(jobs[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()
