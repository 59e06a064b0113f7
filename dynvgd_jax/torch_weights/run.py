"""Turns a save's critics into a run folder, and back; proves that they are the same."""

import functools
import importlib.metadata
import io
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ml_collections import ConfigDict

from dynvgd_jax.agent import (
    CHECKPOINTS,
    POLICY,
    SOURCE_FILE,
    Agent,
    check_steering,
    checkpoint_tree,
    load_agent,
)
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.untrusted import sha256
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import load_policy, save_policy
from dynvgd_jax.runs.checkpoint import CheckpointStore
from dynvgd_jax.runs.durable import new_file, new_folder, refuse_existing
from dynvgd_jax.runs.settings import versions, write_config
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.mlp import CriticEnsemble, make_ensemble
from dynvgd_jax.steering.critics.td import CriticState
from dynvgd_jax.steering.vgd import LearnerState
from dynvgd_jax.torch_weights import critics
from dynvgd_jax.torch_weights.critics import ADAM, SavedCritics, read_critics
from dynvgd_jax.torch_weights.forward import critic_value

MAX_DIFFERENCE = 1e-4  # of Q, as a share of 1 + |Q|
_CHECK_ROWS = 64


class ConvertedCritics(NamedTuple):
    """What the conversion found."""

    difference: float  # largest |Q_jax - Q_torch| / (1 + |Q_torch|)
    notes: list[str]  # what a user should know, one line each

    def agreement(self) -> str:
        """One line: what was compared, and what that does not cover."""
        return (
            f"Q agrees with torch's within {self.difference:.1e} of 1 + |Q|; gamma, "
            "rewards, the base policy and its scale are not compared: they are the "
            "configuration's"
        )


def convert_critics(
    source: str | Path, output: str | Path, config: ConfigDict
) -> ConvertedCritics:
    """Writes the run folder `output`: configuration, base policy, and checkpoint 0.

    The folder appears only after the critics, read back from the disk, have proved
    equal: bit for bit to the file's tensors, and in their values to torch's.

    Args:
      source: Stable-Baselines3's zip of VGD or Dynamic VGD.
      output: new folder.
      config: of a training run; its critics' number and sizes are replaced by the
        file's.

    Raises:
      UserError: whatever does not fit, or the two sides differ.
    """
    if config.job != "train":
        raise UserError(
            f"--critic needs the --config of a training, found {config.job}"
        )
    check_steering(config)
    _require_means(config, "--critic")
    refuse_existing(Path(output))
    saved = read_critics(source)
    name = config.base_policy
    policy = load_policy(f"builtin:{config.task}" if name == "builtin" else name)
    policy.require_task(config.task)
    policy.require_kind(config.policy_kind)
    _require_fit(saved, policy, name)
    config = _sized(config, saved.ensemble)
    learner = _learner(config, saved)
    with new_folder(output) as partial:
        write_config(partial, config)
        save_policy(partial / POLICY, policy)
        CheckpointStore(partial / CHECKPOINTS).save(0, checkpoint_tree(learner, 0))
        text = json.dumps(_provenance(saved), indent=2) + "\n"
        (partial / SOURCE_FILE).write_text(text, encoding="utf-8")
        difference = largest_difference(load_agent(partial), saved)
        if not difference <= MAX_DIFFERENCE:
            raise UserError(
                f"{source}: the converted critics differ from torch's by "
                f"{difference:.1e}, expected at most {MAX_DIFFERENCE}; nothing was "
                "written; the weights may be damaged"
            )
    return ConvertedCritics(difference, _notes(config, saved))


def largest_difference(agent: Agent, saved: SavedCritics) -> float:
    """Returns the largest difference of Q on random inputs, as a share of 1 + |Q|.

    Infinity where a tensor that came back is not bit for bit the file's.
    """
    rng = np.random.default_rng(0)
    split = agent.policy.obs_dim
    x = rng.uniform(-1, 1, (_CHECK_ROWS, saved.in_dim)).astype(np.float32)
    state = agent.learner.critic
    pairs = [(state.params, saved.current), (state.target_params, saved.target)]
    worst = 0.0
    for params, arrays in pairs:
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        members = [
            critic_value(tensors, i, torch.from_numpy(x)).numpy()
            for i in range(saved.ensemble.num)
        ]
        expected = np.stack(members)
        with jax.default_matmul_precision("highest"):
            inputs = (x[:, :split], x[:, split:])
            found = np.asarray(_values(saved.ensemble, params, *inputs))
        # maximum, unlike max, lets NaN through: it is then above the bound.
        share = np.abs(found - expected) / (1 + np.abs(expected))
        worst = float(np.maximum(worst, share.max()))
    if saved.moments is not None:
        adam = state.opt_state[0]
        pairs += [(adam.mu, saved.moments.mean), (adam.nu, saved.moments.square)]
    for params, arrays in pairs:
        back = critics.from_flax(saved.ensemble, params)
        if any(not np.array_equal(back[key], arrays[key]) for key in arrays):
            return float("inf")
    return worst


@functools.partial(jax.jit, static_argnums=0)
def _values(ensemble, params, obs, action):
    return ensemble.apply(params, obs, action)


def write_critics(folder: str | Path, output: str | Path) -> None:
    """Writes the critics of a run's folder as a zip with Stable-Baselines3's members.

    It holds `policy.pth` (`critic.*`, `critic_target.*`) and `critic.optimizer.pth`,
    the parts that PyTorch code can load with `load_state_dict`. The file appears only
    after all tensors, read back, have proved equal bit for bit.

    Raises:
      UserError: there is no such run, or `output` exists or cannot be written.
    """
    output = Path(output)
    refuse_existing(output)
    agent = load_agent(folder)
    _require_means(agent.config, str(folder))
    ensemble = make_ensemble(agent.config)
    state = agent.learner.critic
    adam = state.opt_state[0]
    trees = (state.params, state.target_params, adam.mu, adam.nu)
    current, target, mean, square = (_tensors(ensemble, tree) for tree in trees)
    policy = {f"{critics.CURRENT}.{key}": value for key, value in current.items()}
    policy |= {f"{critics.TARGET}.{key}": value for key, value in target.items()}
    step = torch.tensor(float(adam.count))
    moments = {
        i: {"step": step.clone(), "exp_avg": mean[key], "exp_avg_sq": square[key]}
        for i, key in enumerate(mean)
    }
    group = {"lr": agent.config.learning_rate, **ADAM, "params": list(moments)}
    optimizer = {"state": moments, "param_groups": [group]}
    contents = {critics.POLICY_MEMBER: policy, critics.OPTIMIZER_MEMBER: optimizer}
    with new_file(output) as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in contents.items():
                buffer = io.BytesIO()
                torch.save(content, buffer)
                archive.writestr(name, buffer.getvalue())
        file.flush()
        back = read_critics(file.name)
        found = (back.current, back.target, back.moments.mean, back.moments.square)
        for arrays, tensors in zip(found, (current, target, mean, square), strict=True):
            if any(not np.array_equal(arrays[k], tensors[k].numpy()) for k in tensors):
                raise UserError(f"{output} did not come back bit for bit; try again")


def _tensors(ensemble: CriticEnsemble, params: Any) -> dict[str, torch.Tensor]:
    arrays = critics.from_flax(ensemble, params)
    return {key: torch.from_numpy(array.copy()) for key, array in arrays.items()}


def _require_means(config: ConfigDict, source: str) -> None:
    if config.critic.kind != "mean":
        raise UserError(
            f"{source}: found config.critic.kind = {config.critic.kind!r}, expected "
            "'mean': PyTorch's VGD has no critics of another kind"
        )


def _require_fit(saved: SavedCritics, policy: Policy, name: str) -> None:
    expected = policy.obs_dim + policy.chunk_len * policy.action_dim
    if saved.in_dim != expected:
        raise UserError(
            f"{saved.path}: the critics take {saved.in_dim} inputs, expected {expected}"
            f" (observation {policy.obs_dim}, chunk {policy.chunk_len} x "
            f"{policy.action_dim}) for the base policy {name!r}; give the policy that "
            "they were trained with: --config.base_policy=FOLDER"
        )


def _sized(config: ConfigDict, ensemble: CriticEnsemble) -> ConfigDict:
    sized = ConfigDict(config.to_dict())
    sized.critic.num = ensemble.num
    sized.critic.width = ensemble.width
    sized.critic.depth = ensemble.depth
    return sized.lock()


def _learner(config: ConfigDict, saved: SavedCritics) -> LearnerState:
    def tree(arrays):
        numpy_tree = critics.to_flax(
            str(saved.path), saved.ensemble, saved.in_dim, arrays
        )
        return jax.tree.map(jnp.asarray, numpy_tree)

    params = tree(saved.current)
    adam, *rest = td.make_optimizer(config.learning_rate).init(params)
    count = jnp.zeros((), jnp.int32)
    if saved.moments is not None:
        count = jnp.int32(saved.moments.count)
        mean, square = tree(saved.moments.mean), tree(saved.moments.square)
        adam = adam._replace(count=count, mu=mean, nu=square)
    critic = CriticState(params, tree(saved.target), (adam, *rest))
    return LearnerState(critic, jnp.zeros(()), count)


def _provenance(saved: SavedCritics) -> dict[str, Any]:
    return {
        "converted_from": saved.path.name,
        "sha256": sha256(saved.path),
        "moments": saved.moments is not None,
        "not_used": saved.unused,
        "versions": versions() | {"torch": importlib.metadata.version("torch")},
    }


def _notes(config: ConfigDict, saved: SavedCritics) -> list[str]:
    notes = list(saved.notes)
    if saved.moments is None:
        notes.append(
            f"{saved.path} holds no {critics.OPTIMIZER_MEMBER}: Adam's moments and the "
            "count of updates begin at 0"
        )
    elif not np.isclose(saved.moments.learning_rate, config.learning_rate):
        notes.append(
            f"{saved.path} was trained with learning rate "
            f"{saved.moments.learning_rate:g}, the configuration says "
            f"{config.learning_rate:g} and is followed"
        )
    return notes
