"""Turns a robomimic or DPPO data set into a folder of the project's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dynvgd_jax.core.normalize import load_normalization
from dynvgd_jax.core.untrusted import sha256
from dynvgd_jax.demos.dataset import (
    Dataset,
    load_dataset,
    refuse_filter_key,
    require_same_sizes,
    require_task_sizes,
)
from dynvgd_jax.demos.files import (
    read_dppo,
    read_npz_env_args,
    read_robomimic,
    write_dppo,
    write_trajectories,
)
from dynvgd_jax.demos.hdf5 import is_hdf5, read_words
from dynvgd_jax.envs.robosuite.tasks import TASKS
from dynvgd_jax.runs.durable import new_folder, refuse_existing
from dynvgd_jax.runs.settings import versions

SOURCE_FILE = "source.json"


def convert_dataset(
    source: str | Path,
    output: str | Path,
    normalization: str | Path | None = None,
    *,
    task: str | None = None,
    filter_key: str = "",
) -> str:
    """Writes `train.npz`, `normalization.npz` and `source.json` to a new folder.

    Args:
      source: robomimic's low-dimensional HDF5, or DPPO's `train.npz`.
      output: new folder.
      normalization: npz with the scale. For HDF5, which holds raw values, None fits it
        to the data; for `train.npz`, which is scaled already, None is the
        `normalization.npz` beside it, and its values stay as they are.
      task: robosuite task that the data must be of; None takes the one that the file
        names and, where it names none of them, checks nothing of its meaning.
      filter_key: of HDF5; its episodes alone are written. "" is all of them.

    Returns:
      one line that says what was written.

    Raises:
      UserError: whatever does not fit.
    """
    source = Path(source)
    refuse_existing(Path(output))
    scale = None if normalization is None else load_normalization(normalization)
    with new_folder(output) as partial:
        if is_hdf5(source):
            words = read_words(source)
            env_args, masks = words.env_args, words.masks
            episodes = read_robomimic(source, masks, filter_key)
            if scale is not None:
                require_same_sizes(
                    source, episodes[0].obs, episodes[0].actions, scale, normalization
                )
            write_dppo(partial, episodes, scale, env_args)
        else:
            refuse_filter_key(source, filter_key)
            data, masks = read_dppo(source), {}
            env_args = read_npz_env_args(source)
            if scale is None:
                normalization = source.with_name("normalization.npz")
                scale = load_normalization(normalization)
            require_same_sizes(source, data.states, data.actions, scale, normalization)
            write_trajectories(partial, data, scale, env_args)
        origin = {
            "converted_from": source.name,
            "sha256": sha256(source),
            "filter_key": filter_key,
            "env_args": env_args,
            "versions": versions(),
        }
        text = json.dumps(origin, indent=2) + "\n"
        (partial / SOURCE_FILE).write_text(text, encoding="utf-8")
        task = task or _named_task(env_args)
        data = load_dataset(partial / "train.npz", task, name=source)
        if task is not None:
            require_task_sizes(source, data, task)
    return _describe(data, task, filter_key, masks)


def _named_task(env_args: dict[str, Any] | None) -> str | None:
    name = (env_args or {}).get("env_name")
    return next((t.name for t in TASKS.values() if t.env_name == name), None)


def _describe(
    data: Dataset, task: str | None, filter_key: str, masks: dict[str, list[str]]
) -> str:
    text = (
        f"{len(data.lengths):,} episodes, {len(data.obs):,} control steps, observation "
        f"{data.obs.shape[1]}, action {data.actions.shape[1]}"
    )
    if not np.any(data.rewards):
        text += ", no reward"
    if data.env_args is None:
        return text + "; it does not say from which environment" + _keys(masks)
    version = data.env_args.get("env_version", "of unknown version")
    name = data.env_args.get("env_name")
    text += f"; made in {name} by robosuite {version}"
    if task is None:
        text += ", none of the tasks here: its meaning was not checked"
    return text + (f"; filter key {filter_key}" if filter_key else _keys(masks))


def _keys(masks: dict[str, list[str]]) -> str:
    found = ", ".join(list(masks)[:8])
    return f"; all episodes, filter keys are {found}" if masks else ""
