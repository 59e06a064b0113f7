"""Dynamic VGD on Square with the built-in flow policy and 8 Euler steps."""

from configs import base, square_ddim8


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: "" (published sizes), see `base`.

    Nothing of it is published for flows: the numbers are those of the diffusion.
    """
    config = square_ddim8.get_config()
    config.base_policy = "builtin:square_flow"
    config.policy_kind = "flow_mlp"
    return base.with_preset(config, preset)
