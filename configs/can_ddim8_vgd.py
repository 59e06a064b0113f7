"""VGD on Can with 8 DDIM steps, as published."""

from configs import base


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: see `with_preset`."""
    config = base.get_config()
    config.task = "can"
    as_published(config)
    config.guidance.scale = 0.01
    config.guidance.last_k = 5
    config.batch_size = 1024
    config.gamma = 0.99
    return with_preset(config, preset)


def as_published(config) -> None:
    """What the published VGD runs have in common and Dynamic VGD's have not."""
    config.method = "vgd"
    config.ddim_steps = 8
    config.critic.num = 2
    config.learning_rate = 3e-4
    config.target_clip = 0.0


def with_preset(config, preset: str):
    """Returns `config` after its preset: "" (published) or "published_quick"."""
    return base.apply_preset(config, preset, {"published_quick": _published_quick})


def _published_quick(config) -> None:
    base.with_preset(config, "published_quick")
    # Its 6,000 updates would end before lambda has risen.
    config.guidance.warmup_updates = 0
