"""Steers a robosuite environment in a control loop of 20 Hz, in real time.

    python -m examples.control_loop runs/can_ddim8-quick-seed0 --episodes=3

Start it in the folder of the clone, where Python finds `dynvgd_jax`.

The environment is robosuite's own, not one of this package: `make_env` is where yours
goes. Prints for each episode whether it succeeded and how many actions came too late.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from dynvgd_jax import load_agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.jax_start import run_on_devices

# As `import robosuite`, but it needs no OpenGL.
from dynvgd_jax.envs.robosuite.headless import robosuite

PERIOD_S = 1 / 20
ENVIRONMENTS = {"lift": "Lift", "can": "PickPlaceCan", "square": "NutAssemblySquare"}


def make_env(task):
    """Returns robosuite's environment with one Panda; UserError for other tasks."""
    if task not in ENVIRONMENTS:
        raise UserError(
            f"found a policy for task {task!r}, expected one of "
            f"{', '.join(ENVIRONMENTS)}; make its environment in make_env"
        )
    return robosuite.make(
        ENVIRONMENTS[task],
        robots="Panda",
        controller_configs=robosuite.load_controller_config(
            default_controller="OSC_POSE"
        ),
        control_freq=20,
        use_camera_obs=False,
        has_renderer=False,
        has_offscreen_renderer=False,
        ignore_done=True,
    )


def play(env, controller, seed, max_steps, execute):
    """Plays one episode until success or `max_steps`.

    Returns whether it succeeded, its control steps, how many of them ended too late,
    and the milliseconds that each action took to be there.
    """
    np.random.seed(seed)  # robosuite's own generator
    obs = env.reset()
    actions = controller.actions(lambda: obs, seed, execute)
    success, late, decision_ms = False, 0, []
    due = time.perf_counter()
    while not success and len(decision_ms) < max_steps:
        begin = time.perf_counter()
        action = next(actions)
        decision_ms.append(1e3 * (time.perf_counter() - begin))
        obs, _, _, _ = env.step(action)
        success = bool(env._check_success())
        due += PERIOD_S
        left_s = due - time.perf_counter()
        if left_s < 0:
            late += 1
            due -= left_s  # goes on from here instead of catching up
        else:
            time.sleep(left_s)
    return success, len(decision_ms), late, decision_ms


def check(options):
    """Raises UserError where a number is out of its range."""
    for name in ("episodes", "max_steps", "execute"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}: found {value}, expected at least 1")
    last = 2**32 - options.episodes  # robosuite's generator takes 32 bits
    if not 0 <= options.seed <= last:
        raise UserError(f"--seed: found {options.seed}, expected 0 to {last}")


def main(arguments=None):
    """Reads the command line, plays, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run's folder, or one of its checkpoints")
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--max_steps", type=int, default=400, help="per episode")
    parser.add_argument("--execute", type=int, help="actions of each chunk")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode")
    options = parser.parse_args(arguments)
    check(options)
    agent = load_agent(options.run)
    if options.execute is not None and options.execute > agent.policy.chunk_len:
        raise UserError(
            f"--execute: found {options.execute}, expected at most the "
            f"{agent.policy.chunk_len} actions of a chunk"
        )
    env = make_env(agent.policy.task)
    controller = agent.controller()
    successes, all_steps, all_late, all_ms = 0, 0, 0, []
    for seed in range(options.seed, options.seed + options.episodes):
        success, steps, late, decision_ms = play(
            env, controller, seed, options.max_steps, options.execute
        )
        outcome = "success" if success else "no success"
        print(
            f"episode {seed}: {outcome} after {steps} control steps, "
            f"{late} deadlines missed",
            flush=True,
        )
        successes, all_steps = successes + success, all_steps + steps
        all_late, all_ms = all_late + late, all_ms + decision_ms
    env.close()
    p50, p99 = np.percentile(all_ms, (50, 99))
    print(
        f"success in {successes} of {options.episodes} episodes; {all_late} of "
        f"{all_steps} deadlines of {1e3 * PERIOD_S:.0f} ms missed; an action is there "
        f"after p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    )


if __name__ == "__main__":
    sys.exit(run_on_devices("control_loop.py", main))
