"""Run by tests/test_parallel.py in a process with several virtual CPU devices.

`python -m tests.support.parallel_child math` prints what training does on 1, 2, 4 and 8
devices, `... seeds` what several seeds do, `... kinds` on which seeds and devices the
kinds of values were checked; `... run POLICY FOLDER STEPS [SEEDS [METHOD]]` trains in
FOLDER, or resumes there, up to STEPS vector steps; `... begin POLICY FOLDER METHOD...`
trains two seeds of every method, once to the end and once to two thirds, which
`... resume POLICY FOLDER METHOD...` goes on with. All print one JSON object.
"""

import functools
import hashlib
import json
import sys
from pathlib import Path

import tests.conftest  # strict shapes, exact products, CPU

# isort: split
import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.diffusion.ddim import make_ddim
from dynvgd_jax.steering import vgd
from dynvgd_jax.steering.base import ActInputs, Setting
from dynvgd_jax.training import placement as parallel
from dynvgd_jax.training.compile import (
    HELD,
    SAME,
    SHARED,
    SPREAD,
    compile_for,
    compile_for_first,
    make_put,
    make_replicate,
)
from dynvgd_jax.training.programs import call_on_batches, compile_programs
from dynvgd_jax.training.replay_memory import MEMORIES
from tests.steering import toy

UTD, BATCH, ENVS, N_STEP = 2, 16, 8, 3


class ToyPolicy:
    """The predictor of tests/steering/toy.py as a run sees a policy."""

    chunk_len, action_dim = toy.CHUNK

    def __init__(self):
        self.params = toy.to_jax(toy.weights())

    def denoiser(self, ddim_steps):
        return make_ddim(toy.make_eps_fn, toy.schedule(ddim_steps))


def make_config(memory="device"):
    config = toy.setting().config
    config.guidance.scale, config.guidance.last_k, config.ddim_steps = 0.05, 1, 2
    config.gamma, config.learning_rate = 0.9, 1e-3
    config.critic.num, config.critic.width, config.critic.depth = 3, 16, 1
    config.utd, config.batch_size, config.num_envs = UTD, BATCH, ENVS
    config.acting_noise, config.target_n_step = "randn", N_STEP
    config.replay.memory = memory
    return config


def make(placement=parallel.ONE_DEVICE, denoiser=None):
    denoiser = denoiser or ToyPolicy().denoiser(2)
    setting = Setting(
        make_config(), denoiser, toy.OBS_DIM, toy.CHUNK, placement.average
    )
    return vgd.dynvgd(setting)


def from_observations():
    """A denoiser that starts from a function of the observations, not from its noise.

    Each device draws its own noise; without it, devices that share a batch compute what
    one alone computes.
    """
    inner = ToyPolicy().denoiser(2)

    def estimate(prepared, x, k, obs):
        if k == 0:
            flat = jnp.tile(jnp.sin(3.0 * obs), (1, toy.FLAT))[:, : toy.FLAT]
            x = flat.reshape(x.shape)
        return inner.estimate(prepared, x, k, obs)

    return inner._replace(estimate=estimate)


def learn_from_one_global_batch(num_devices):
    """State and metrics after two training calls on the same global batches."""
    placement = parallel.place(1, num_devices)
    method = make(placement, from_observations())
    kinds = (SPREAD, SHARED, SAME, SPREAD, SAME)
    call = call_on_batches(method, placement)
    learn = compile_for(placement, call, kinds, SPREAD)
    params = make_replicate(placement)(toy.to_jax(toy.weights()))
    state = make_put(placement)([make().init(jax.random.key(0))])
    for number in range(2):
        batches = placement.share([toy.transitions(number, BATCH, UTD)])
        state, metrics = learn(state, batches, params, jax.random.key(9 + number), 0)
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


def learning_of(placement, memory="device"):
    """What a run compiles of the toy method, and its replay memory."""
    config = make_config(memory)
    programs = compile_programs(config, ToyPolicy(), make(placement), placement)
    replay = MEMORIES[memory](placement, 98, toy.example())
    return programs, replay


def compiled_learning(num_devices):
    """Three training calls as a run makes them: replicas, shards, sizes."""
    placement = parallel.place(1, num_devices)
    programs, replay = learning_of(placement)
    first = toy.transitions(0, ENVS)
    replay.store([first])
    state = programs.put([make().init(jax.random.key(0))])
    for call in range(3):
        replay.store([toy.transitions(call, ENVS)])
        state, metrics = programs.update(state, replay, [jax.random.key(call)], 0)
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
def several_seeds(first_seed, num_seeds, num_devices, memory="device"):
    """Each seed's learner, chunks and metrics after training calls and one act."""
    placement = parallel.place(num_seeds, num_devices)
    programs, _ = learning_of(placement, memory)
    replay = MEMORIES[memory](placement, 40, toy.example())
    seeds = range(first_seed, first_seed + num_seeds)
    state = programs.put([make().init(jax.random.key(seed)) for seed in seeds])
    for call in range(6):  # the buffers overflow
        replay.store([toy.transitions((s, call), ENVS) for s in seeds])
        keys = [jax.random.key(100 * s + call) for s in seeds]
        state, metrics = programs.update(state, replay, keys, 0)
    inputs = [
        ActInputs(
            obs=toy.transitions((s, 99), ENVS).obs,
            key=jax.random.key(s),
            seeds=np.arange(ENVS, dtype=np.uint32),
            chunk_index=np.arange(ENVS, dtype=np.int32),
            episode=np.arange(ENVS, dtype=np.int32),
        )
        for s in seeds
    ]
    decision = programs.act(state, inputs)
    chunks = placement.collect(np.asarray(decision.chunk))
    losses = placement.collect(np.asarray(metrics["train/critic_loss"]))
    found = []
    for place, seed in enumerate(seeds):
        learner = placement.take(state, place)
        one = programs.act_one(learner, inputs[place]).chunk
        leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(learner.critic)]
        found.append((np.concatenate(leaves), chunks[place], losses[place]))
        np.testing.assert_allclose(one, chunks[place], atol=5e-6)
        assert int(learner.num_updates) == 6 * UTD, seed
    return placement.num_groups, found


def seeds():
    """Differences of every seed to its own run on as many devices as its group has."""
    out = {}
    several = ((4, 1), (1, 8), (4, 2), (4, 4), (4, 8), (6, 4))
    cases = [(*sizes, "device") for sizes in several] + [(4, 8, "host")]
    for num_seeds, num_devices, memory in cases:
        groups, together = several_seeds(10, num_seeds, num_devices, memory)
        differences = []
        for place in range(num_seeds):
            alone_on = num_devices // groups
            _, (alone,) = several_seeds(10 + place, 1, alone_on, memory)
            differences += [
                float(np.abs(a - b).max()) for a, b in zip(alone, together[place])
            ]
        apart = np.abs(together[0][0] - together[-1][0]).max() if num_seeds > 1 else 1
        name = f"{num_seeds} seeds, {num_devices} devices"
        out[name if memory == "device" else f"{name}, host memory"] = {
            "groups": groups,
            "difference": max(differences),
            "apart": float(apart),
        }
    return out


def kinds():
    """Checks that every kind of value reaches and leaves seeds and devices so."""
    out = {}
    for num_seeds, num_devices in ((1, 1), (3, 1), (1, 4), (2, 4), (4, 4), (4, 2)):
        placement = parallel.place(num_seeds, num_devices)
        check_kinds(placement)
        out[f"{num_seeds} seeds, {num_devices} devices"] = placement.num_groups
    return out


def check_kinds(placement):
    """Compares a function of all kinds with NumPy, seed by seed, device by device."""
    seeds, devices = placement.num_seeds, placement.group_devices
    own = np.float32(10 * np.arange(seeds))  # one a seed
    shared = np.float32(np.arange(seeds * 8).reshape(seeds, 8))  # 8 rows a seed
    rows = 8 // devices

    def function(tree, part, same):
        # of one seed on one device
        assert tree["own"].shape == () and part.shape == (rows,)
        total = placement.average(jnp.sum(part)) * devices
        return {"sum": tree["own"] + total + same, "part": part + tree["same"]}

    tree_kinds = {"own": SPREAD, "same": SAME}
    outputs = {"sum": SPREAD, "part": SHARED}
    run = compile_for(placement, function, (tree_kinds, SHARED, SAME), outputs)
    put = make_put(placement)(list(own))
    parts = placement.share(list(shared))
    found = run({"own": put, "same": np.float32(5)}, parts, np.float32(1))
    expected = own + shared.sum(axis=1) + 1
    got = placement.collect(np.asarray(found["sum"]))
    np.testing.assert_array_equal(got, expected)
    for seed in range(seeds):
        assert float(placement.take(found["sum"], seed)) == expected[seed]
    assert np.shape(found["part"]) == (*placement.lead, rows)
    np.testing.assert_array_equal(found["part"], parts + 5)

    # What is the same for all seeds: each device has its own, no seed an axis.
    lead = () if placement.num_devices == 1 else (placement.num_local,)
    held = compile_for(placement, lambda _, same: same + 1, (SHARED, SAME), HELD)(
        parts, np.float32(6)
    )
    assert np.shape(held) == lead and set(np.ravel(held)) == {7.0}
    used = compile_for(
        placement, lambda held, part: held * part, (HELD, SHARED), SHARED
    )
    np.testing.assert_array_equal(used(held, parts), 7 * parts)

    # What is too small to be shared, and what gives its memory.
    first = compile_for_first(placement, lambda a, b: a + b, (SPREAD, SAME), SPREAD)
    same = make_replicate(placement)(np.float32(2))
    small = placement.collect(np.asarray(first(put, same)))
    np.testing.assert_array_equal(small, own + 2)
    give = compile_for(placement, lambda a: a + 1, (SPREAD,), SPREAD, donate=(0,))
    taken = give(put)
    assert put.is_deleted()
    np.testing.assert_array_equal(placement.collect(np.asarray(taken)), own + 1)


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


def run(policy, folder, vector_steps, num_seeds=1, method="dynvgd"):
    from dynvgd_jax import load_agent
    from dynvgd_jax.training.loop import train
    from tests.support.reach import ReachEnv
    from tests.support.tiny_run import PROPOSALS, VECTOR_STEP, tiny

    config = tiny(
        policy,
        total_env_steps=int(vector_steps) * VECTOR_STEP,
        num_seeds=int(num_seeds),
        method="dynvgd" if method == "proposals" else method,
        # its oldest are overwritten; a longer run has no other programs
        **{"replay.capacity": 30},
    )
    if method in ("proposals", "edit"):
        config.update_from_flattened_dict(PROPOSALS)
    if method == "golden_ticket":
        with config.unlocked():
            config.first_rollout_env_steps, config.golden_ticket.num_tickets = 0, 3
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


def begin(policy, folder, *methods):
    """[of the unbroken run, of the shorter one] by method, by the same programs."""
    with tests.conftest.sharing_programs():
        return {
            method: [
                run(policy, f"{folder}/{method}/unbroken", 24, 2, method),
                run(policy, f"{folder}/{method}/resumed", 16, 2, method),
            ]
            for method in methods
        }


def resume(policy, folder, *methods):
    return {m: run(policy, f"{folder}/{m}/resumed", 24, 2, m) for m in methods}


def main():
    jobs = {"kinds": kinds, "math": math, "seeds": seeds, "run": run}
    jobs |= {"begin": begin, "resume": resume}
    print(json.dumps(jobs[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()
