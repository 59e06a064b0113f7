"""Run by tests/test_parallel.py in a process with several virtual CPU devices.

`python -m tests.support.parallel_child math` prints what training does on 1, 2, 4 and 8
devices, `... seeds` what several seeds do; `... run POLICY FOLDER STEPS [SEEDS]` trains
in FOLDER, or resumes there, up to STEPS vector steps. All print one JSON object.
"""

import functools
import hashlib
import json
import sys
from pathlib import Path

import tests.conftest  # noqa: F401  strict shapes, exact products, CPU

# isort: split
import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.core.types import Transition
from dynvgd_jax.diffusion.schedule import cosine_schedule, ddim_schedule
from dynvgd_jax.replay.memory import REPLAY_AXES, DeviceReplay
from dynvgd_jax.steering import vgd
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.mlp import CriticEnsemble
from dynvgd_jax.steering.guidance import Guidance
from dynvgd_jax.training import placement as parallel
from tests.steering import toy

UTD, BATCH, ENVS = 2, 16, 8


def make(placement=parallel.ONE_DEVICE):
    config = vgd.VgdConfig(
        Guidance(scale=0.05, last_k=1),
        td.TdConfig(0.9),
        1e-3,
        BATCH // placement.group_devices,
        UTD,
    )
    return vgd.make_vgd(
        config,
        CriticEnsemble(num=3, width=16, depth=1),
        ddim_schedule(cosine_schedule(20), 2),
        toy.make_eps_fn,
        toy.OBS_DIM,
        toy.CHUNK,
        placement.average,
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
    method = make(parallel.place(1, num_devices))
    params = toy.to_jax(toy.weights())
    learn = jax.jit(method.learn)
    if num_devices > 1:
        learn = jax.pmap(
            method.learn,
            parallel.AXIS,
            in_axes=(None, None, 1, 1, None),
            out_axes=None,
            devices=jax.local_devices()[:num_devices],
        )
    state = make().init(jax.random.key(0))
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


def learning_of(placement):
    """What `train.py` compiles, of the toy method."""
    method = make(placement)

    def act(learner, params, obs, key, seeds, chunk_index, env_steps):
        noise = vgd.start_noise("randn", key, seeds, chunk_index, toy.CHUNK)
        return method.act(learner, params, obs, noise, env_steps)

    return parallel.compile_learning(
        placement, REPLAY_AXES, update=method.update, act=act
    )


def compiled_learning(num_devices):
    """Three training calls as `train.py` makes them: replicas, shards, sizes."""
    placement = parallel.place(1, num_devices)
    learning = learning_of(placement)
    replay = DeviceReplay(placement, 98, toy.OBS_DIM, toy.FLAT, None)
    first = transitions(0, ENVS)
    replay.store([first])
    params = learning.replicate(toy.to_jax(toy.weights()))
    state = learning.put([make().init(jax.random.key(0))])
    for call in range(3):
        replay.store([transitions(call, ENVS)])
        state, metrics = learning.update(
            state, replay.state, params, [jax.random.key(call)], 0
        )
    replay = replay.state
    stored = np.asarray(replay.data.obs)
    rows = ENVS // num_devices
    local = placement.take(state, 0)
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
    placement = parallel.place(1, num_devices)
    shard = jax.pmap(
        lambda _, key: jax.random.bits(placement.own_key(key)),
        parallel.AXIS,
        in_axes=(0, None),
    )
    return np.asarray(shard(np.zeros(num_devices), jax.random.key(0))).tolist()


@functools.cache
def several_seeds(first_seed, num_seeds, num_devices):
    """Each seed's learner, chunks and metrics after training calls and one act."""
    placement = parallel.place(num_seeds, num_devices)
    learning = learning_of(placement)
    seeds = range(first_seed, first_seed + num_seeds)
    params = learning.replicate(toy.to_jax(toy.weights()))
    state = learning.put([make().init(jax.random.key(seed)) for seed in seeds])
    replay = DeviceReplay(placement, 40, toy.OBS_DIM, toy.FLAT, None)
    for call in range(6):  # the buffers overflow
        replay.store([transitions((s, call), ENVS) for s in seeds])
        keys = [jax.random.key(100 * s + call) for s in seeds]
        state, metrics = learning.update(state, replay.state, params, keys, 0)
    inputs = (
        [transitions((s, 99), ENVS).obs for s in seeds],
        [jax.random.key(s) for s in seeds],
        [np.arange(ENVS, dtype=np.uint32)] * num_seeds,
        [np.arange(ENVS, dtype=np.int32)] * num_seeds,
    )
    chunks, _ = learning.act(state, params, *inputs, 0)
    chunks = placement.collect(np.asarray(chunks))
    losses = placement.collect(np.asarray(metrics["train/critic_loss"]))
    found = []
    for place, seed in enumerate(seeds):
        learner = placement.take(state, place)
        leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(learner.critic)]
        found.append((np.concatenate(leaves), chunks[place], losses[place]))
        assert int(learner.num_updates) == 6 * UTD, seed
    return placement.num_groups, found


def seeds():
    """Differences of every seed to its own run on as many devices as its group has."""
    out = {}
    for num_seeds, num_devices in ((4, 1), (1, 8), (4, 2), (4, 4), (4, 8), (6, 4)):
        groups, together = several_seeds(10, num_seeds, num_devices)
        differences = []
        for place in range(num_seeds):
            _, (alone,) = several_seeds(10 + place, 1, num_devices // groups)
            differences += [
                float(np.abs(a - b).max()) for a, b in zip(alone, together[place])
            ]
        apart = np.abs(together[0][0] - together[-1][0]).max() if num_seeds > 1 else 1
        out[f"{num_seeds} seeds, {num_devices} devices"] = {
            "groups": groups,
            "difference": max(differences),
            "apart": float(apart),
        }
    return out


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
    start = make().init(jax.random.key(0)).critic.params
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), start, alone[0][0])
    out["moved"] = max(jax.tree.leaves(moved))
    return out


def run(policy, folder, vector_steps, num_seeds=1):
    from dynvgd_jax import load_agent
    from dynvgd_jax.training.loop import train
    from tests.support.reach import ReachEnv
    from tests.support.tiny_run import VECTOR_STEP, tiny

    config = tiny(
        policy,
        total_env_steps=int(vector_steps) * VECTOR_STEP,
        num_seeds=int(num_seeds),
    )
    train(config, folder, make_env=ReachEnv, resume=Path(folder).exists())
    folders = [folder]
    if config.num_seeds > 1:
        folders = sorted(Path(folder).glob("seed*"))
    learners = [load_agent(each).learner for each in folders]
    content = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(learners)]
    return {
        "devices": jax.local_device_count(),
        "num_updates": int(learners[0].num_updates),
        "learner": hashlib.sha256(b"".join(content)).hexdigest(),
    }


def main():
    jobs = {"math": math, "seeds": seeds, "run": run}
    print(json.dumps(jobs[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()
