"""Speed of the environments, and their agreement with stock robosuite.

    python benchmarks/rollouts.py [--tasks=lift,can] [--json]
    python benchmarks/rollouts.py --agreement [--episodes=20] [--actions=expert]

The first form times, in one process and in turns, control steps per second of stock
robosuite, of the compiled engine on one thread and on all cores, and of MuJoCo's bare
`mj_step` (25 per control step) on the stock scene. One thread is timed by the CPU's
clock, so that other work on the machine counts less; all cores by the wall clock.
The second plays the same episodes on both engines and says where they part.
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
    fast = np.array(found["compiled, 1 thread"])
    for base in ("robosuite", "mj_step, stock scene"):
        ratio = float(np.median(fast / np.array(found[base])))
        rates[f"ratio compiled to {base}, 1 thread"] = ratio
    return rates


def actor(name: str, kind: str, seed: int):
    """Returns a function (robosuite environment, control step) -> action [Da]."""
    task = tasks.get_task(name)
    rng = np.random.default_rng(seed)
    if kind == "expert":
        from dynvgd_jax.demos.experts import make_expert

        expert = make_expert(name, "expert", rng)
        return lambda env, k: np.asarray(expert.act(env), np.float64)
    actions = wandering(rng, task.max_episode_env_steps, task.action_dim)
    actions[:, 6::7] = np.sign(np.sin(np.arange(len(actions)) / 8))[:, None]
    return lambda env, k: actions[k]


def agreement(name: str, episodes: int, kind: str, keep: bool) -> dict[str, float]:
    """Plays episodes on both engines; returns errors and where they part.

    An expert looks at the stock environment; both engines get its actions.
    """
    task = tasks.get_task(name)
    stock = StockStepper(tasks.make_env(task), task)
    fast = CompiledStepper(tasks.make_env(task), task, keep_unused_contacts=keep)
    errors_100, parted, unequal, successes = [], [], 0, [0, 0]
    for seed in range(episodes):
        for stepper in (stock, fast):
            tasks.reset_env(stepper.env, seed)
            stepper.start()
        act, length = actor(name, kind, seed), task.max_episode_env_steps
        worst, part = 0.0, length
        any_success = np.zeros(2, bool)
        for k in range(length):
            action = act(stock.env, k)
            a, b = stock.run(action[None]), fast.run(action[None])
            worst = max(worst, float(np.abs(a.obs - b.obs).max()))
            if worst > 1e-6:
                part = min(part, k)
            if k < part:
                unequal += int(a.reward[0] != b.reward[0])
                unequal += int(a.success[0] != b.success[0])
            any_success |= [a.success[0], b.success[0]]
            if k == 99:
                errors_100.append(worst)
        parted.append(part)
        successes[0] += int(any_success[0])
        successes[1] += int(any_success[1])
    return {
        "episodes": episodes,
        "within 1e-6 after 100 control steps": sum(e < 1e-6 for e in errors_100),
        "median error after 100 control steps": float(np.median(errors_100)),
        "median control step of the first error above 1e-6": float(np.median(parted)),
        "episodes that never part": sum(p == length for p in parted),
        "unequal rewards or successes before that": unequal,
        "successful episodes, robosuite": successes[0],
        "successful episodes, compiled": successes[1],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", default=",".join(tasks.TASKS))
    parser.add_argument("--json", action="store_true", help="one object per line")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--actions", choices=("random", "expert"), default="random")
    parser.add_argument("--all-contacts", action="store_true", help="of unused objects")
    options = parser.parse_args()
    for name in options.tasks.split(","):
        if options.agreement:
            rows = agreement(
                name, options.episodes, options.actions, options.all_contacts
            )
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
