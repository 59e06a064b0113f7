"""All methods on Can with several seeds, as one job: docs/compare.md."""

from ml_collections import ConfigDict

from configs import can_ddim4, can_ddim8
from dynvgd_jax.core.fields import apply_preset, nested

# Of the critics' choice, which keeps its proposals in the replay buffer.
CHOOSING = {
    "guidance.candidates": 8,
    "target_backup": "max",
    "target_proposals": 4,
}
# First rollouts as of all other methods; values hold the entropy's worth beside
# rewards, so that no clip fits them.
DSRL = {"dsrl.first_noise": "explore", "target_clip": 0.0}
# Networks as wide as the critics; the coefficient of its own preset :quick.
DSRL_QUICK = DSRL | {"dsrl.actor_width": 256, "dsrl.initial_entropy_coef": 0.05}

# The matched family: only the method differs. Critics, learning rate, batches,
# discount, exploration, budget and start noise are those of the configuration below;
# here is what a method needs to be itself. One more method is one more line.
MATCHED = {
    "base": {"eval.noises": ("tanh_randn", "randn")},
    "golden_ticket": {"first_rollout_env_steps": 0},
    "best_of_n": CHOOSING,
    "edit": CHOOSING,
    "vgd": {},
    "dynvgd": {},
    "dsrl_na": DSRL,
    "dsrl_sac": DSRL | {"dsrl.noise_magnitude": 1.5},
}
MATCHED_QUICK = MATCHED | {
    "dsrl_na": DSRL_QUICK,
    "dsrl_sac": DSRL_QUICK | {"dsrl.noise_magnitude": 1.5},
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the comparison; presets: see `with_preset`."""
    return with_preset("can", can_ddim8, can_ddim4, preset)


def with_preset(task: str, ddim8, ddim4, preset: str) -> ConfigDict:
    """Returns a comparison on a task.

    Presets: "" and "ddim4", matched at the published size with 8 and 4 DDIM steps;
    "quick" and "quick_ddim4", the same at a size for two CPU cores; "published", each
    method as its configuration has it; "published_quick", these in small.

    Args:
      task: "can" or "square".
      ddim8: its module of configurations with 8 DDIM steps.
      ddim4: and with 4.
      preset: one of the above.
    """
    known = {
        "": lambda: matched(task, ddim8, ""),
        "ddim4": lambda: matched(task, ddim4, ""),
        "quick": lambda: matched(task, ddim8, "quick"),
        "quick_ddim4": lambda: matched(task, ddim4, "quick"),
        "published": lambda: published(task, ddim8, ""),
        "published_quick": lambda: published(task, ddim8, "published_quick"),
    }
    if preset not in known:  # says which ones there are
        apply_preset(ConfigDict(), preset, {name: None for name in known if name})
    return known[preset]()


def matched(task: str, module, preset: str) -> ConfigDict:
    """Returns the family where only the method differs."""
    config = module.get_config(preset)
    # One chunk a decision from one start noise; those who choose say otherwise.
    config.guidance.candidates = 1
    config.proposals.noises = ()
    config.target_backup = "guided"
    config.target_proposals = 0
    # Preset :quick guides nothing. Published.
    config.guidance.scale = 0.005
    # Whoever looks at base policies with other start noises looks at "base".
    config.eval.noises = (config.acting_noise,)
    file = f"configs/{task}_ddim{config.ddim_steps}.py"
    add_comparison(config, file, preset)
    table = MATCHED_QUICK if preset else MATCHED
    config.compare.methods = tuple(table)
    config.compare.overrides = nested({name: nested(table[name]) for name in table})
    config.compare.seeds = (0, 1, 2, 3, 4) if config.ddim_steps == 8 else (0, 1, 2)
    return config


def published(task: str, module, preset: str) -> ConfigDict:
    """Returns the family of published configurations.

    `preset` changes the same fields in all of them: what it makes of Dynamic VGD's.
    """
    config = module.get_config(preset)
    add_comparison(config, f"configs/{task}_ddim8.py", "")
    config.compare.methods = ("base", "vgd", "dynvgd", "dsrl_na", "dsrl_sac")
    for name in ("vgd", "dsrl_na", "dsrl_sac"):
        config.compare.configs[name] = f"configs/{task}_ddim8_{name}.py"
    if preset:
        actor = {
            "dsrl.actor_width": config.critic.width,
            # as its preset "quick" says
            "dsrl.initial_entropy_coef": 0.05,
        }
        small = {"dsrl_na": actor, "dsrl_sac": actor}
        # 80,000 published updates are a two-hundredth of the published budget.
        small["vgd"] = {"guidance.warmup_updates": 0}
        config.compare.overrides = nested({n: nested(small[n]) for n in small})
    config.compare.seeds = (0, 1, 2)
    return config


def add_comparison(config: ConfigDict, file: str, preset: str) -> None:
    """Adds the fields of a comparison to those of a run, which all its runs share.

    Args:
      config: of a run; what it has unlike `file:preset` is given to every run.
      file: a configuration of a run.
      preset: of it.
    """
    config.job = "compare"
    config.compare = ConfigDict()
    # The configuration that every run begins with, unless `configs` names another, and
    # that the fields above are compared with: no field to be changed by hand.
    config.compare.base = f"{file}:{preset}" if preset else file
    # Names of what is compared. One without entries below is a method of that name.
    config.compare.methods = ()
    # Name -> fields that this one's runs have unlike the others', such as `method`
    # where the name is none.
    config.compare.overrides = ConfigDict()
    # Name -> configuration of its own, which tells the method then.
    config.compare.configs = ConfigDict()
    # Seeds of each; the evaluation's episodes, `eval.seed`, are the same for all.
    config.compare.seeds = (0,)
    # Those whose result no seed changes, for which the first one suffices.
    config.compare.once = ("base",)
    # "local": processes of this machine; "slurm": jobs of a cluster.
    config.compare.executor = "local"
    # Of "local": runs at once; each has the same number of cores for itself, which its
    # numbers depend on by rounding.
    config.compare.jobs = 1
    config.compare.slurm = ConfigDict()
    # Of "slurm": partition; "" is the cluster's default.
    config.compare.slurm.partition = ""
    # Minutes after which a job saves and is queued again.
    config.compare.slurm.timeout_min = 1440
    # Of each run: cores, GPUs and memory.
    config.compare.slurm.cpus = 4
    config.compare.slurm.gpus = 0
    config.compare.slurm.mem_gb = 16
