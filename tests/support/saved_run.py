"""The folder of a run of a built-in policy, saved without training."""

import jax
import jax.numpy as jnp

from configs import base
from dynvgd_jax.agent import CHECKPOINTS, POLICY, checkpoint_tree
from dynvgd_jax.diffusion.policy_files import load_policy, policy_source, save_policy
from dynvgd_jax.runs.checkpoint import CheckpointStore
from dynvgd_jax.runs.settings import write_config
from dynvgd_jax.steering.methods import build_method

ENV_STEPS = 640


def saved_run(folder, **changes):
    """Writes the run of a `task`, "can" unless changed, with fresh small critics."""
    config = base.get_config()
    config.ddim_steps, config.guidance.last_k = 4, 2
    config.critic.num, config.critic.width, config.critic.depth = 2, 16, 1
    config.update_from_flattened_dict(changes)
    policy = load_policy(policy_source(config))
    policy.require_kind(config.policy_kind)
    method = build_method(config, policy)
    learner = jax.jit(method.init)(jax.random.key(1))
    if method.value is not None:
        learner = learner._replace(td_error=jnp.float32(3.0))
    folder.mkdir()
    write_config(folder, config)
    save_policy(folder / POLICY, policy)
    tree = checkpoint_tree(learner, ENV_STEPS)
    CheckpointStore(folder / CHECKPOINTS).save(ENV_STEPS, tree)
    return folder


# Everything that a decision can consist of: guidance of several candidates; the choice
# among stored proposals; a noise of the method's own.
DECISIONS = {
    "guided": {"guidance.scale": 0.5, "guidance.candidates": 3},
    "chosen": {
        "guidance.scale": 0.0,
        "guidance.candidates": 4,
        "guidance.critics": "target",
        "proposals.noises": ("tanh_randn", "randn"),
        "target_backup": "max",
    },
    "flow": {
        "task": "square",
        "base_policy": "builtin:square_flow",
        "policy_kind": "flow_mlp",
        "guidance.scale": 0.5,
        "guidance.point": "estimate",
    },
    "ticket": {"method": "golden_ticket", "first_rollout_env_steps": 0},
}
