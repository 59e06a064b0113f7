"""What a run is: its configuration and the versions of its libraries, as files."""

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from ml_collections import ConfigDict

from dynvgd_jax import __version__
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.untrusted import load_json
from dynvgd_jax.runs.durable import write_durably

CONFIG_FILE = "config.json"
VERSIONS_FILE = "versions.json"
# Fields that runs of before lack, with what they did.
ADDED_FIELDS = {
    "critic.groups": 1,
    "critic.kind": "mean",
    "critic.quantiles": 32,
    "critic.kappa": 1.0,
    "critic.bins": 100,
    "critic.v_min": -400.0,
    "critic.v_max": 0.0,
    "edit.depth": 3,
    "edit.max_step": 0.1,
    "edit.penalty": 50.0,
    "edit.width": 256,
    "golden_ticket.num_tickets": 64,
    "policy_kind": "diffusion_mlp",
    "proposals.dtype": "float32",
    "proposals.noises": (),
    "target_backup": "guided",
    "target_proposals": 0,
    "replay.offline_filter_key": "",
    "dsrl.noise_magnitude": 1.0,
    "dsrl.first_noise": "uniform",
    "dsrl.actor_width": 2048,
    "dsrl.actor_depth": 3,
    "dsrl.target_entropy": 0.0,
    "dsrl.initial_entropy_coef": 1.0,
    "dsrl.deterministic_eval": False,
    "dsrl.distill_steps": 10,
    "dsrl.distill_noise": "randn",
}
LOGGED_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "mujoco",
    "mujoco-mjx",
    "robosuite",
    "numba",
)


def write_config(workdir: str | Path, config: ConfigDict) -> None:
    """Writes what `read_config` reads."""
    _write_json(Path(workdir) / CONFIG_FILE, config.to_dict())


def read_config(workdir: str | Path) -> ConfigDict:
    """Returns the locked configuration of the run in `workdir`.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path = Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise UserError(_no_run(Path(workdir)))
    try:
        config = ConfigDict(_lists_to_tuples(load_json(path)))
        if config.get("job") == "train":
            _add_fields(config)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return config.lock()


def _no_run(workdir: Path) -> str:
    if workdir.is_file():
        return (
            f"{workdir} is a file, expected a run folder; convert_torch_ckpt.py makes "
            "folders of PyTorch checkpoints"
        )
    if not workdir.is_dir():
        return f"{workdir} is no run folder: there is no such folder"
    seeds = sorted(str(path.parent) for path in workdir.glob(f"seed*/{CONFIG_FILE}"))
    if seeds:
        return (
            f"{workdir} is no run folder: it holds those of several seeds; give one of "
            f"them: {', '.join(seeds)}"
        )
    return f"{workdir} is no run folder: it holds no {CONFIG_FILE}"


def _add_fields(config: ConfigDict) -> None:
    for name, value in ADDED_FIELDS.items():
        *groups, leaf = name.split(".")
        place = config
        for group in groups:
            if group not in place:
                place[group] = ConfigDict()
            place = place[group]
        if leaf not in place:
            place[leaf] = value


def versions() -> dict[str, str]:
    """Returns the versions that decide a run's numbers; imports none of the packages.

    A package that is not installed is "none"; so is `git_commit` outside a checkout.
    """
    found = {
        "dynvgd_jax": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in LOGGED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    found["git_commit"] = _git_commit()
    return found


def write_versions(workdir: str | Path) -> None:
    """Writes `versions()` to the run's folder."""
    _write_json(Path(workdir) / VERSIONS_FILE, versions())


def _git_commit() -> str:
    """The commit of this code, with `+changes` where files differ from it.

    An installed copy may lie inside another repository, whose commit says nothing.
    """
    folder = Path(__file__).resolve().parent
    try:
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "none"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


def _write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    write_durably(path, text.encode())


def _lists_to_tuples(value):
    if isinstance(value, dict):
        return {key: _lists_to_tuples(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return tuple(_lists_to_tuples(entry) for entry in value)
    return value
