"""Short runs in scripted environments, and all that can be seen of them from outside.

`evidence` takes a run apart into pieces, in the order of their causes, and `reached`
says which of them another cause below them changes: so a test can state what a field of
the configuration changes directly, and everything else must stay as it was.
"""

import csv

import jax
import numpy as np

from configs import base
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.diffusion.network import DiffusionMLP, init_params
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import save_policy
from dynvgd_jax.training.loop import train
from tests.support.same_run import arrays, scalars
from tests.support.scripted import ScriptedEnv, recording

NUM_ENVS = 2
VECTOR_STEP = NUM_ENVS * ScriptedEnv.sizes.chunk_len
NEVER = 10**6

# Differences below this share of the largest number are rounding.
TOLERANCE = 1e-4


def save_toy_policy(folder, seed=0, *, gain=1.0, bias=0.0):
    """A base policy with random weights.

    Its last layer is multiplied by `gain`; with 0 it predicts the noise `bias`
    everywhere. Noise 0 lets one see through it: with one DDIM step a chunk is its start
    noise, times 1.004, clipped to [-1, 1].
    """
    network = DiffusionMLP(
        obs_dim=ScriptedEnv.sizes.obs_dim,
        action_dim=ScriptedEnv.sizes.action_dim,
        chunk_len=ScriptedEnv.sizes.chunk_len,
        time_dim=4,
        hidden_dims=(8,),
        residual=False,
    )
    params = init_params(network, jax.random.key(seed))
    params["out"] = jax.tree.map(lambda leaf: gain * leaf + 0.0, params["out"])
    params["out"]["bias"] = params["out"]["bias"] + bias
    ones = [np.ones(n, np.float32) for n in (network.obs_dim, network.action_dim)]
    norm = Normalization(-ones[0], ones[0], -ones[1], ones[1])
    save_policy(folder, Policy(network, params, 20, norm, "can"))
    return folder


def wired(policy, **changes):
    """Two vector steps of the first rollouts, two training calls, and an evaluation.

    Training calls run beside the rollouts, so that the first one sees the first
    rollouts alone.
    """
    config = base.get_config()
    settings = {
        "base_policy": str(policy),
        "ddim_steps": 2,
        "seed": 9,  # its first episode succeeds in its first chunk, others do not
        "num_envs": NUM_ENVS,
        "first_rollout_env_steps": 2 * VECTOR_STEP,
        "total_env_steps": 4 * VECTOR_STEP,
        "utd": 1,
        "overlap": True,
        "batch_size": 8,
        "learning_rate": 0.01,
        "gamma": 0.9,
        "critic.num": 2,
        "critic.width": 4,
        "critic.depth": 1,
        "guidance.scale": 2.0,
        "guidance.last_k": 1,
        "guidance.c_local": 1.0,
        "replay.capacity": 100,
        "eval.episodes": 3,
        "eval.num_envs": 2,
        "eval.seed": 2,
        "eval.noises": ("tanh_randn",),
        "eval.every_env_steps": NEVER,
        "checkpoint.every_env_steps": NEVER,
        "log.every_env_steps": 1,
    }
    config.update_from_flattened_dict(settings | changes)
    return config.lock()


def rows(folder):
    """eval.csv."""
    with (folder / "eval.csv").open() as file:
        return list(csv.DictReader(file))


def eval_seeds(folder):
    """The episodes' seeds of each evaluation: (control steps, policy) -> in order."""
    found = {}
    for row in rows(folder):
        place = int(row["control_steps"]), row["policy"]
        found.setdefault(place, []).append(int(row["seed"]))
    return found


def run(config, folder, kind=ScriptedEnv, **options):
    """Trains and returns the training and the evaluation environments."""
    make_env, made = recording(kind)
    train(config, folder, make_env=make_env, **options)
    own = folder if config.num_seeds == 1 else folder / f"seed{config.seed}"
    evaluated = {seed for seeds in eval_seeds(own).values() for seed in seeds}
    envs = {False: [], True: []}  # by whether they evaluate
    for env in made:
        envs[evaluated >= {reset.seed for reset in env.resets}].append(env)
    assert (len(envs[False]), len(envs[True])) == (config.num_seeds, 1)
    return envs[False], envs[True][0]


# What follows from what: if the first differs, the second may and shall.
FOLLOWS = {
    "episodes": ("explore", "act1", "guide1", "act2", "stored", "call1", "train"),
    "explore": ("call1",),
    "act1": ("call2",),
    "stored": ("call1",),
    "call1": ("critics1",),
    "critics1": ("targets1", "act2", "guide2", "call2"),
    "targets1": ("call2",),
    "call2": ("critics2",),
    "critics2": ("steered",),
}


def reached(causes):
    """Returns `causes` with all that follows from them."""
    found, new = set(), set(causes)
    while new:
        found |= new
        new = {after for name in new for after in FOLLOWS.get(name, ())} - found
    return found


def evidence(config, folder, training, evaluation=None):
    """Returns the pieces of a finished run by name: arrays, or what can be compared.

    episodes      seeds of training, by environment and vector step
    explore       actions of the first rollouts
    act1, act2    actions of the first vector step that is steered, and of the second
    guide1, guide2  their guide/* scalars
    stored        rewards and ends of the transitions
    call1, call2  train/* scalars of the first training call and of the second
    critics1, targets1  parameters after the first call, critics with Adam's
                  moments, where that checkpoint was kept
    critics2      after the last
    base, steered actions of the evaluations, where their environments are given
    eval_envs     environments that evaluate
    plan, scores  eval.csv: what was evaluated, and how it went
    train         training episodes' success, return and length, as logged last
    points, files names and control steps of scalars and of checkpoints
    """
    step = config.num_envs * training.sizes.chunk_len
    first = -(-config.first_rollout_env_steps // step)
    acted = np.stack([step.actions for step in training.played])
    points, last = scalars(folder), arrays(folder, config.total_env_steps)
    after_call = (first + 1) * step
    pieces = {
        "episodes": training.resets,
        "explore": acted[:first],
        "act1": acted[first],
        "act2": acted[first + 1],
        "stored": _stored(last),
        "critics2": _critics(last),
        "train": {
            name: values[-1] for name, values in points.items() if _is_episodes(name)
        },
        "points": {name: [n for n, _ in values] for name, values in points.items()},
        "files": sorted(int(p.name) for p in (folder / "checkpoints").iterdir()),
    }
    if after_call in pieces["files"]:
        early = arrays(folder, after_call)
        pieces["critics1"] = _critics(early)
        pieces["targets1"] = _critics(early, targets=True)
    for number, env_steps in enumerate((after_call, after_call + step), 1):
        at = {name: dict(values).get(env_steps) for name, values in points.items()}
        for piece, prefix in (("guide", "guide/"), ("call", "train/")):
            values = [
                value
                for name, value in sorted(at.items())
                if name.startswith(prefix)
                and value is not None
                and not _is_episodes(name)
            ]
            pieces[f"{piece}{number}"] = np.array(values)
    if evaluation is not None:
        pieces |= _evaluations(folder, evaluation)
    return pieces


def _is_episodes(name):
    return name in {
        f"train/{n}" for n in ("success_rate", "ep_rew_mean", "ep_len_mean", "faults")
    }


def learner(found):
    """Leaves of a checkpoint's critics, their targets and moments, by name.

    `found` is what `arrays` reads of it.
    """
    return {
        name: found[name]
        for name in sorted(found)
        if name.startswith("checkpoints/") and "params" in name
    }


def _critics(found, targets=False):
    """Critics with Adam's moments, or target critics, as a vector."""
    leaves = learner(found).items()
    return np.concatenate(
        [np.ravel(leaf) for name, leaf in leaves if ("target" in name) == targets]
    )


def _stored(found):
    """What the replay buffer holds beside observations and actions, as a vector."""
    names = set(found) - {"obs", "action", "next_obs"}
    return np.concatenate(
        [np.ravel(found[name]) for name in sorted(names) if "/" not in name]
    )


def episodes_played(folder, evaluation):
    """Returns the actions `[episodes, chunks, Ta, Da]` by (control steps, policy)."""
    seeds = eval_seeds(folder)
    played = evaluations_played(evaluation, list(seeds.values()))
    return dict(zip(seeds, played, strict=True))


def evaluations_played(evaluation, seeds):
    """Returns the actions `[episodes, chunks, Ta, Da]` of evaluations in their order.

    `seeds` has the list of episodes of each.
    """
    found, steps = [], iter(evaluation.played)
    for episodes in seeds:
        acted = {}
        while len(acted) < len(episodes) * evaluation.limit:
            step = next(steps)
            keys = zip(step.seeds.tolist(), step.chunks.tolist(), strict=True)
            acted |= dict(zip(keys, step.actions, strict=True))
        chunks = range(evaluation.limit)
        found.append(np.stack([[acted[s, c] for c in chunks] for s in episodes]))
    assert next(steps, None) is None
    return found


def _evaluations(folder, evaluation):
    pieces = {"base": [], "steered": []}
    for (_, policy), acted in episodes_played(folder, evaluation).items():
        pieces["base" if policy.startswith("base/") else "steered"].append(acted)
    found, names = rows(folder), ("success_any", "success_chunk", "return", "length")
    return {name: np.array(acted) for name, acted in pieces.items()} | {
        "eval_envs": evaluation.num_envs,
        "plan": [(r["control_steps"], r["policy"], r["seed"]) for r in found],
        "scores": np.array([[float(r[name]) for name in names] for r in found]),
    }


def differences(one, other):
    """Returns the names of the pieces of both that differ by more than rounding."""
    both = one.keys() & other.keys()
    return {name for name in both if _differ(one[name], other[name])}


def _differ(a, b):
    if not isinstance(a, np.ndarray):
        return a != b
    if a.shape != b.shape:
        return True
    scale = max(1.0, np.abs(a).max(initial=0.0))
    return bool(np.abs(a - b).max(initial=0.0) > TOLERANCE * scale)
