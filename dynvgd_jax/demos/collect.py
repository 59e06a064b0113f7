"""Collects demonstrations of a mixture of operators and writes them to files."""

from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import SEED_END, check_fields, count, number
from dynvgd_jax.demos.experts import Expert, check_operator, get_script, make_expert
from dynvgd_jax.demos.files import DemoEpisode, write_dppo, write_robomimic
from dynvgd_jax.demos.meaning import ROBOSUITE
from dynvgd_jax.envs.robosuite.options import env_kwargs
from dynvgd_jax.envs.robosuite.task import Task
from dynvgd_jax.envs.robosuite.tasks import get_task
from dynvgd_jax.runs.terminal import Progress, job, print_next, print_table

LOST_BELOW_Z_M = 0.79  # an object below it has left table and bins: the episode ends
FIELDS = {
    "seed": number(0, SEED_END),
    "num_episodes": count(1),
    "num_envs": number(1, 4096),
    "env.num_threads": number(0, 4096),
}
VALID_SHARE = 0.1  # of the episodes, in robomimic's filter key "valid"


class Plan(NamedTuple):
    """What is fixed about an episode before it runs."""

    operator: str
    reset_seed: int  # of robosuite's reset
    noise_seed: np.random.SeedSequence  # of the expert's style and noise


def plan_episodes(
    operators: Mapping[str, float], num_episodes: int, seed: int
) -> list[Plan]:
    """Operators in proportion to their weights, in shuffled order, with seeds.

    Args:
      operators: weight per operator, at least 0, not all 0.
      num_episodes: how many.
      seed: of order, resets and noise.

    Raises:
      UserError: negative weights, all weights 0, or no episodes.
    """
    names = list(operators)
    weights = np.array([float(operators[name]) for name in names])
    if num_episodes < 1:
        raise UserError(f"num_episodes is {num_episodes}, expected at least 1")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise UserError(
            f"found operators {dict(operators)}, expected weights of at least 0, "
            "one of them positive"
        )
    shares = num_episodes * weights / weights.sum()
    counts = np.floor(shares).astype(int)
    most_owed = np.argsort(counts - shares, kind="stable")
    counts[most_owed[: num_episodes - counts.sum()]] += 1
    order = [name for name, count in zip(names, counts) for _ in range(count)]
    root = np.random.SeedSequence(seed)
    shuffled = np.random.default_rng(root).permutation(num_episodes)
    reset_seeds = root.generate_state(num_episodes)
    children = root.spawn(num_episodes)
    return [
        Plan(order[k], int(reset), child)
        for k, reset, child in zip(shuffled, reset_seeds, children)
    ]


class _Running:
    """One episode while it is recorded."""

    def __init__(self, expert: Expert, plan: Plan, hover_steps: int, rest_steps: int):
        self.expert, self.plan = expert, plan
        self._hover_steps, self._rest_steps = hover_steps, rest_steps
        self._obs, self._actions, self._rewards, self._states = [], [], [], []
        self._succeeded = self._rested = 0
        self.success = False

    def act(self, env, obs: np.ndarray) -> np.ndarray:
        """Chooses and records the next action, rounded to float32."""
        action = self.expert.act(env).astype(np.float32)
        self._obs.append(np.asarray(obs, np.float32))
        self._states.append(env.sim.get_state().flatten())
        self._actions.append(action)
        return action

    def receive(self, reward: float, success: bool, limit: int) -> bool:
        """Records a control step's result and returns whether the episode is over."""
        self._rewards.append(reward)
        self.success = success
        self._succeeded = self._succeeded + 1 if success else 0
        self._rested = self._rested + 1 if self.expert.resting else 0
        return (
            self.expert.object_z < LOST_BELOW_Z_M
            or self._succeeded >= self._hover_steps
            or (self._rested >= self._rest_steps and not success)
            or len(self._actions) >= limit
        )

    def drop_last(self) -> None:
        """Forgets a control step in which the physics broke."""
        for steps in (self._obs, self._actions, self._states):
            steps.pop()
        self.success = False

    def episode(self, last_obs: np.ndarray) -> DemoEpisode:
        return DemoEpisode(
            obs=np.array(self._obs, np.float32),
            actions=np.array(self._actions, np.float32),
            rewards=np.array(self._rewards, np.float32),
            last_obs=np.asarray(last_obs, np.float32),
            operator=self.plan.operator,
            seed=self.plan.reset_seed,
            success=self.success,
            states=np.array(self._states),
        )


def collect(
    task_name: str,
    num_episodes: int,
    seed: int,
    *,
    operators: Mapping[str, float],
    num_envs: int = 2,
    waypoint_noise_m: float = 0.0,
    action_noise: float = 0.0,
    hover_steps: int = 20,
    rest_steps: int = 20,
    engine: str = "compiled",
    num_threads: int = 0,
    on_episode: Callable[[DemoEpisode], None] = lambda episode: None,
) -> list[DemoEpisode]:
    """Lets the operators demonstrate; returns all episodes, successful or not.

    The episodes depend on everything but `num_envs` and `num_threads`.

    Args:
      task_name: a key of `experts.SCRIPTS`.
      num_episodes: how many episodes.
      seed: of the choice of operators, the resets and the experts' noise.
      operators: weight per operator of the task's script.
      num_envs: environments that run at once.
      waypoint_noise_m: standard deviation of the smooth noise on waypoints, m.
      action_noise: standard deviation of the white noise on the six pose actions.
      hover_steps: control steps recorded after success.
      rest_steps: control steps recorded after an operator has stopped without success.
      engine: "compiled" or "robosuite".
      num_threads: of the environments; 0 takes one per usable core.
      on_episode: called with each finished episode, in order of finishing.

    Raises:
      UserError: the task has no experts, an operator is unknown, or weights, numbers
        of steps or noise sizes make no sense.
    """
    get_script(task_name)
    for name in operators:
        check_operator(task_name, name)
    sizes = {"waypoint_noise_m": waypoint_noise_m, "action_noise": action_noise}
    sizes |= {"hover_steps": hover_steps - 1, "rest_steps": rest_steps - 1}
    for name, size in sizes.items():
        if not 0 <= size < np.inf:
            raise UserError(f"{name} is too small, negative or infinite")
    plans = plan_episodes(operators, num_episodes, seed)

    def begin(plan: Plan) -> _Running:
        rng = np.random.default_rng(plan.noise_seed)
        noise = {"waypoint_noise_m": waypoint_noise_m, "action_noise": action_noise}
        expert = make_expert(task_name, plan.operator, rng, **noise)
        return _Running(expert, plan, hover_steps, rest_steps)

    # imports the simulator
    from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv

    count = min(num_envs, num_episodes)
    options = {"engine": engine, "num_threads": num_threads}
    venv = RobosuiteVectorEnv(task_name, count, None, **options)
    try:
        return _play(venv, plans, begin, on_episode)
    finally:
        venv.close()


def _play(venv, plans: Sequence[Plan], begin: Callable, on_episode: Callable):
    """Plays all planned episodes, as many at once as there are environments.

    Args:
      venv: environments that take raw actions.
      plans: of the episodes.
      begin: plan -> its `_Running` episode.
      on_episode: called with each finished episode.
    """
    limit = venv.sizes.max_episode_env_steps
    episodes: list[DemoEpisode | None] = [None] * len(plans)
    waiting = list(range(len(plans)))[::-1]
    running: dict[int, tuple[int, _Running]] = {}

    def start(slot: int) -> None:
        number = waiting.pop()
        venv.reset(np.array([slot]), np.array([plans[number].reset_seed]))
        running[slot] = number, begin(plans[number])

    for slot in range(venv.num_envs):
        start(slot)
    while running:
        slots = np.array(sorted(running))
        actions = [running[s][1].act(venv.envs[s], venv.raw_obs[s]) for s in slots]
        result = venv.step(slots, np.array(actions)[:, None, :])
        for row, slot in enumerate(slots):
            number, episode = running[slot]
            if result.fault[row]:
                episode.drop_last()
                over = True
            else:
                reward, success = result.reward[row, 0], result.success[row, 0]
                over = episode.receive(float(reward), bool(success), limit)
            if over:
                episodes[number] = episode.episode(venv.raw_obs[slot])
                on_episode(episodes[number])
                del running[slot]
                if waiting:
                    start(slot)
    return episodes


def run(config: ConfigDict, workdir: str | Path) -> None:
    """Collects as `config` says (configs/can_demos.py) and writes three files.

    `workdir` receives `demos.hdf5` (robomimic), `train.npz` and `normalization.npz`
    (DPPO); a table with success and length per operator is printed.
    """
    if "num_episodes" not in config:
        raise UserError(
            "found no config.num_episodes, expected a configuration of demonstrations; "
            "start from configs/can_demos.py"
        )
    task = get_task(config.task)
    check_fields(config, FIELDS)
    with Progress(config.num_episodes, unit="episodes") as progress:
        successes = []

        def show(episode: DemoEpisode) -> None:
            successes.append(episode.success)
            progress.update(len(successes), success=float(np.mean(successes)))

        episodes = collect(
            config.task,
            config.num_episodes,
            config.seed,
            operators=config.operators.to_dict(),
            num_envs=config.num_envs,
            waypoint_noise_m=config.waypoint_noise_m,
            action_noise=config.action_noise,
            hover_steps=config.hover_steps,
            rest_steps=config.rest_steps,
            engine=config.env.engine,
            num_threads=config.env.num_threads,
            on_episode=show,
        )
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    hdf5 = workdir / "demos.hdf5"
    write_robomimic(hdf5, episodes, env_args(task), masks(episodes, config.seed))
    write_dppo(workdir, episodes, env_args=env_args(task))
    print_table(summary(episodes))
    print(f"wrote {workdir}: demos.hdf5, train.npz, normalization.npz")
    data = f"--config.dataset={workdir / 'train.npz'}"
    print_next(job(config.task, "pretrain", data))


def env_args(task: Task) -> dict:
    """Robomimic's description of the environment that the demonstrations are from."""
    return {
        "env_name": task.env_name,
        "type": ROBOSUITE,
        "env_version": metadata.version("robosuite"),
        "env_kwargs": env_kwargs(task),
    }


def masks(episodes: Sequence[DemoEpisode], seed: int) -> dict[str, list[int]]:
    """Robomimic's filter keys: train, valid, successful, and one per operator."""
    numbers = range(len(episodes))
    order = np.random.default_rng(seed).permutation(len(episodes))
    valid = set(order[: int(VALID_SHARE * len(episodes))].tolist())
    groups = {
        "train": [i for i in numbers if i not in valid],
        "valid": sorted(valid),
        "successful": [i for i in numbers if episodes[i].success],
    }
    for name in sorted({e.operator for e in episodes}):
        groups[f"operator_{name}"] = [
            i for i in numbers if episodes[i].operator == name
        ]
    return groups


def summary(episodes: Sequence[DemoEpisode]) -> Table:
    """Success rate and length in control steps per operator."""
    table = Table("operator", "episodes", "success", "control steps", "when successful")
    for name in [*sorted({e.operator for e in episodes}), "all"]:
        own = [e for e in episodes if name in (e.operator, "all")]
        lengths = [len(e.actions) for e in own]
        good = [len(e.actions) for e in own if e.success]
        table.add_row(
            name,
            str(len(own)),
            f"{len(good) / len(own):.2f}",
            f"{np.mean(lengths):.0f}",
            f"{np.mean(good):.0f}" if good else "-",
            end_section=False,
        )
    return table
