"""Dynamic VGD on Transport (two arms) with 10 DDIM steps.

There is no built-in Transport policy: give one with --config.base_policy=FOLDER, as
configs/transport_demos.py and configs/transport_pretrain.py make it.
No Dynamic VGD run on Transport is published: where VGD's published Transport run has a
number, it stands here; the dynamic weight's own constants are those of the other tasks.
"""

from configs import base


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: "" (full size), see `base`."""
    config = base.get_config()
    config.task = "transport"
    config.ddim_steps = 10
    config.num_envs = 4
    # 20001 vector steps x 4 environments x 8.
    config.first_rollout_env_steps = 640_032
    config.batch_size = 1024
    config.learning_rate = 3e-4
    config.gamma = 0.99
    config.guidance.scale = 0.0008
    config.guidance.warmup_updates = 100_000
    config = base.with_preset(config, preset)
    if preset == "published_quick":
        # The full warm-up would outlast the 6,000 gradient steps of such a run.
        config.guidance.warmup_updates = 1_000
    return config
