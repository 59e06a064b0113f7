"""Speed of the environments, and their agreement with stock robosuite.

    python benchmarks/rollouts.py [--tasks=lift,can] [--json]
    python benchmarks/rollouts.py --agreement [--engine=exact] [--actions=policy]

The first form times, in one process and in turns, control steps per second of stock
robosuite, of our engines on one thread and on all cores, and of MuJoCo's bare
`mj_step` (25 per control step) on the stock scene. One thread is timed by the CPU's
clock, so that other work on the machine counts less; all cores by the wall clock.
The second plays the same episodes on robosuite and on one of ours and says where they
part. Actions are random, an expert's or those of the built-in base policy.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mujoco
import numpy as np

from dynvgd_jax.envs import tasks
from dynvgd_jax.envs.control import SUBSTEPS, CompiledStepper
from dynvgd_jax.envs.stock import StockStepper


def wandering(rng, steps: int, action_dim: int) -> np.ndarray:
    """Returns smooth random actions [steps, Da] that reach objects and table."""
    noise = rng.normal(0, 1, (steps + 20, action_dim))
    window = np.ones(20) / np.sqrt(20)
    smooth = np.stack([np.convolve(n, window, "valid") for n in noise.T], -1)[:steps]
    actions = np.clip(0.4 * smooth + 0.2 * noise[:steps], -1, 1)
    actions[:, 2::7] -= 0.1
    return actions


class RawPhysics:
    """Bare `mj_step` with torques that hold the arms up: the floor of all costs."""

    def __init__(self, env):
        self.env = env
        self.model, self.data = env.sim.model._model, env.sim.data._data
        self.dofs = [i for r in env.robots for i in r._ref_joint_vel_indexes]
        self.motors = [i for r in env.robots for i in r._ref_joint_actuator_indexes]

    def start(self):
        pass

    def run(self, actions):
        for _ in actions:
            self.data.ctrl[self.motors] = self.data.qfrc_bias[self.dofs]
            mujoco.mj_step(self.model, self.data, SUBSTEPS)


def timed(steppers, threads, actions, seconds):
    """Returns control steps per second of the steppers, each chunk on the threads."""
    clock = time.process_time if threads == 1 else time.perf_counter
    for index, stepper in enumerate(steppers):
        tasks.reset_env(stepper.env, index)
        stepper.start()
    done, begin, at = 0, clock(), 0
    with ThreadPoolExecutor(threads) as pool:
        while clock() - begin < seconds:
            chunk = actions[at : at + 4]
            at = (at + 4) % (len(actions) - 4)
            list(pool.map(lambda stepper, a=chunk: stepper.run(a), steppers))
            done += len(chunk) * len(steppers)
    return done / (clock() - begin)


def speeds(name: str, rounds: int, seconds: float) -> dict[str, float]:
    """Returns the median of each engine's speed over interleaved rounds."""
    task, cores = tasks.get_task(name), os.cpu_count()
    build = lambda make: make(tasks.make_env(task), task)  # noqa: E731
    groups = {
        "robosuite": ([build(StockStepper)], 1),
        "compiled, 1 thread": ([build(CompiledStepper)], 1),
        "compiled, all contacts, 1 thread": (
            [build(lambda e, t: CompiledStepper(e, t, keep_unused_contacts=True))],
            1,
        ),
        "exact, 1 thread": ([build(lambda e, t: CompiledStepper(e, t, exact=True))], 1),
        f"compiled, {cores} threads": (
            [build(CompiledStepper) for _ in range(2 * cores)],
            cores,
        ),
        "mj_step, stock scene": ([RawPhysics(tasks.make_env(task))], 1),
    }
    actions = wandering(np.random.default_rng(0), 204, task.action_dim)
    found = {what: [] for what in groups}
    for steppers, threads in groups.values():  # compile and warm up
        timed(steppers, threads, actions, 0.1)
    for _ in range(rounds):
        for what, (steppers, threads) in groups.items():
            found[what].append(timed(steppers, threads, actions, seconds))
    rates = {what: float(np.median(values)) for what, values in found.items()}
    # ratios of neighbours in time: the machine's speed drifts
    for engine in ("compiled", "exact"):
        fast = np.array(found[f"{engine}, 1 thread"])
        for base in ("robosuite", "mj_step, stock scene"):
            ratio = float(np.median(fast / np.array(found[base])))
            rates[f"ratio {engine} to {base}, 1 thread"] = ratio
    return rates


def actor(name: str, kind: str, seed: int):
    """Returns a function (robosuite environment, obs [Do], k) -> action [Da]."""
    task = tasks.get_task(name)
    rng = np.random.default_rng(seed)
    if kind == "expert":
        from dynvgd_jax.demos.experts import make_expert

        expert = make_expert(name, "expert", rng)
        return lambda env, obs, k: np.asarray(expert.act(env), np.float64)
    if kind == "policy":
        return policy_actor(name, rng)
    actions = wandering(rng, task.max_episode_env_steps, task.action_dim)
    actions[:, 6::7] = np.sign(np.sin(np.arange(len(actions)) / 8))[:, None]
    return lambda env, obs, k: actions[k]


def policy_actor(name: str, rng):
    """Returns an actor that follows the built-in base policy, DDIM 8, randn noise."""
    from dynvgd_jax.diffusion.policy import load_policy
    from dynvgd_jax.envs.normalize import normalize_obs, unnormalize_action

    policy, chunk = load_policy(f"builtin:{name}"), []
    scale = policy.normalization

    def act(env, obs, k):
        if k % policy.chunk_len == 0:
            noise = rng.normal(size=(1, policy.chunk_len, policy.action_dim))
            sample = policy.sample(normalize_obs(scale, obs[None]), noise, 8)
            chunk[:] = unnormalize_action(scale, np.asarray(sample))[0]
        return np.asarray(chunk[k % policy.chunk_len], np.float64)

    return act


def used_joints(env, task) -> list[int]:
    """Returns the addresses in qpos of all but the objects that the task ignores."""
    model = env.sim.model
    ends = [*model.jnt_qposadr[1:], model.nq]
    return [
        place
        for joint in range(model.njnt)
        if not model.joint_id2name(joint).startswith(task.unused_objects or ("-",))
        for place in range(model.jnt_qposadr[joint], ends[joint])
    ]


def agreement(name: str, episodes: int, kind: str, engine: str) -> dict[str, float]:
    """Plays episodes on robosuite and on `engine`; returns errors, where they part.

    Experts and policies look at the stock environment; both get their actions. An
    error is the largest difference of any observation or joint coordinate so far.
    """
    task = tasks.get_task(name)
    stock = StockStepper(tasks.make_env(task), task)
    fast = CompiledStepper(tasks.make_env(task), task, exact=engine == "exact")
    joints = used_joints(stock.env, task)
    length = task.max_episode_env_steps
    errors_100, errors_end, parted, unequal, wins = [], [], [], 0, [0, 0]
    for seed in range(episodes):
        for stepper in (stock, fast):
            obs_dict = tasks.reset_env(stepper.env, seed)
            stepper.start()
        obs, act = tasks.observe(task, obs_dict), actor(name, kind, seed)
        worst, part = 0.0, length
        any_success = np.zeros(2, bool)
        for k in range(length):
            action = act(stock.env, obs, k)
            a, b = stock.run(action[None]), fast.run(action[None])
            obs = a.obs
            qpos = stock.env.sim.data.qpos - fast.env.sim.data.qpos
            worst = max(worst, np.abs(obs - b.obs).max(), np.abs(qpos[joints]).max())
            if worst > 1e-6:
                part = min(part, k)
            if k < part:
                unequal += int(a.reward[0] != b.reward[0])
                unequal += int(a.success[0] != b.success[0])
            any_success |= [a.success[0], b.success[0]]
            if k == 99:
                errors_100.append(worst)
        parted.append(part)
        errors_end.append(worst)
        wins = [wins[i] + int(any_success[i]) for i in range(2)]
    return {
        "episodes": episodes,
        "within 1e-6 after 100 control steps": sum(e < 1e-6 for e in errors_100),
        "median error after 100 control steps": float(np.median(errors_100)),
        "largest error of whole episodes": float(max(errors_end)),
        "median control step of the first error above 1e-6": float(np.median(parted)),
        "episodes that never part": sum(p == length for p in parted),
        "unequal rewards or successes before that": unequal,
        "successful episodes, robosuite": wins[0],
        f"successful episodes, {engine}": wins[1],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", default=",".join(tasks.TASKS))
    parser.add_argument("--json", action="store_true", help="one object per line")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument(
        "--actions", choices=("random", "expert", "policy"), default="random"
    )
    parser.add_argument("--engine", choices=("compiled", "exact"), default="compiled")
    options = parser.parse_args()
    for name in options.tasks.split(","):
        if options.agreement:
            rows = agreement(name, options.episodes, options.actions, options.engine)
        else:
            rows = speeds(name, options.rounds, options.seconds)
        for what, value in rows.items():
            unit = "control steps/s"
            if options.agreement or what.startswith("ratio"):
                unit = "1"
            row = {
                "task": name,
                "what": what,
                "value": float(f"{value:.6g}"),
                "unit": unit,
            }
            if options.json:
                print(json.dumps(row), flush=True)
            else:
                print(f"{name:10} {what:52} {value:12.4g} {unit}", flush=True)


if __name__ == "__main__":
    main()
