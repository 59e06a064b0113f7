"""Speed of the environments, and their agreement with stock robosuite.

    python -m benchmarks.rollouts [--tasks=lift,can] [--json]
    python -m benchmarks.rollouts --agreement [--actions=policy] [--episodes=20]

The first form times, in one process and in turns, control steps per second of stock
robosuite, of our engines on one thread and on all cores, and of MuJoCo's bare
`mj_step` (25 per control step) on the stock scene. One thread is timed by the CPU's
clock, so that other work on the machine counts less; all cores by the wall clock.
The second plays the same episodes on robosuite and on ours and says where they
part. Actions are random, an expert's or those of the built-in base policy. Engine
`all-contacts` is `compiled` with the contacts of the task's unused objects.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dynvgd_jax.core.command_line import whole_number
from dynvgd_jax.core.cores import usable_cores
from dynvgd_jax.envs.robosuite import build, tasks
from dynvgd_jax.envs.robosuite.control import SUBSTEPS, CompiledStepper
from dynvgd_jax.envs.robosuite.headless import mujoco
from dynvgd_jax.envs.robosuite.stock import StockStepper
from dynvgd_jax.envs.robosuite.task import Task

ENGINES = {
    "compiled": {},
    "all-contacts": {"keep_unused_contacts": True},
    "exact": {"exact": True},
}


def make_stepper(task: Task, engine: str) -> CompiledStepper:
    """Returns one environment of the task on the named engine."""
    return CompiledStepper(build.build_env(task), task, **ENGINES[engine])


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
        build.reset_env(stepper.env, index)
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
    task, cores = tasks.get_task(name), usable_cores()
    groups = {
        "robosuite": ([StockStepper(build.build_env(task), task)], 1),
        **{f"{e}, 1 thread": ([make_stepper(task, e)], 1) for e in ENGINES},
        f"compiled, {cores} threads": (
            [make_stepper(task, "compiled") for _ in range(2 * cores)],
            cores,
        ),
        "mj_step, stock scene": ([RawPhysics(build.build_env(task))], 1),
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
    from dynvgd_jax.core.normalize import normalize_obs, unnormalize_action
    from dynvgd_jax.diffusion.policy_files import load_policy

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


class Comparison:
    """What one engine did beside robosuite, over several episodes."""

    def __init__(self, engine: str, task: Task, length: int):
        self.engine, self.length = engine, length
        self.stepper = make_stepper(task, engine)
        self.joints = used_joints(self.stepper.env, task)
        self.errors_100, self.errors_end, self.parted = [], [], []
        self.unequal = self.wins = 0

    def start(self, seed: int) -> None:
        build.reset_env(self.stepper.env, seed)
        self.stepper.start()
        self.worst, self.part, self.won = 0.0, self.length, False

    def step(self, k: int, action: np.ndarray, stock, expected) -> None:
        """Steps too and compares: the largest difference so far, and when it shows."""
        got = self.stepper.run(action[None])
        qpos = stock.env.sim.data.qpos - self.stepper.env.sim.data.qpos
        errors = np.abs(expected.obs - got.obs), np.abs(qpos[self.joints])
        self.worst = max(self.worst, *(float(e.max()) for e in errors))
        if self.worst > 1e-6:
            self.part = min(self.part, k)
        if k < self.part:
            self.unequal += int(expected.reward[0] != got.reward[0])
            self.unequal += int(expected.success[0] != got.success[0])
        self.won |= bool(got.success[0])
        if k == 99:
            self.errors_100.append(self.worst)

    def end(self) -> None:
        self.parted.append(self.part)
        self.errors_end.append(self.worst)
        self.wins += self.won

    def rows(self) -> dict[str, float]:
        rows = {
            "within 1e-6 after 100 control steps": sum(
                e < 1e-6 for e in self.errors_100
            ),
            "median error after 100 control steps": float(np.median(self.errors_100)),
            "largest error of whole episodes": max(self.errors_end),
            "median control step of the first error above 1e-6": float(
                np.median(self.parted)
            ),
            "episodes that never part": sum(p == self.length for p in self.parted),
            "unequal rewards or successes before that": self.unequal,
            "successful episodes": self.wins,
        }
        return {f"{self.engine}: {what}": value for what, value in rows.items()}


def agreement(
    name: str, episodes: int, length: int | None, kind: str, engines: list[str]
) -> dict:
    """Plays episodes on robosuite and on `engines`; returns errors, where they part.

    length: control steps of an episode, None takes the task's time limit. Experts and
    policies look at the stock environment; all get their actions. An error is the
    largest difference of any observation or joint coordinate so far.
    """
    task = tasks.get_task(name)
    stock = StockStepper(build.build_env(task), task)
    length = length or task.max_episode_env_steps
    compared, wins = [Comparison(engine, task, length) for engine in engines], 0
    for seed in range(episodes):
        obs = build.observe(task, build.reset_env(stock.env, seed))
        for one in compared:
            one.start(seed)
        act, won = actor(name, kind, seed), False
        for k in range(length):
            action = act(stock.env, obs, k)
            expected = stock.run(action[None])
            obs, won = expected.obs, won or bool(expected.success[0])
            for one in compared:
                one.step(k, action, stock, expected)
        wins += won
        for one in compared:
            one.end()
    rows = {"episodes": episodes, "control steps each": length}
    rows |= {"robosuite: successful episodes": wins}
    for one in compared:
        rows |= one.rows()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", default=",".join(tasks.TASKS))
    parser.add_argument("--json", action="store_true", help="one object per line")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument(
        "--env_steps", type=whole_number, help="an episode; 100 at least"
    )
    parser.add_argument(
        "--actions", choices=("random", "expert", "policy"), default="random"
    )
    parser.add_argument("--engines", default="compiled,exact", help="to compare")
    options = parser.parse_args()
    unknown = set(options.engines.split(",")) - set(ENGINES)
    if unknown:
        parser.error(f"unknown engines {sorted(unknown)}; known are {list(ENGINES)}")
    if options.env_steps is not None and options.env_steps < 100:
        parser.error("--env_steps must be at least 100, where errors are compared")
    for name in options.tasks.split(","):
        if options.agreement:
            rows = agreement(
                *(name, options.episodes, options.env_steps, options.actions),
                options.engines.split(","),
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
                print(f"{name:10} {what:62} {value:12.4g} {unit}", flush=True)


if __name__ == "__main__":
    main()
