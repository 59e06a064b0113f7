"""Turns a robomimic or DPPO data set into a folder of the project's own."""

import json
from pathlib import Path

import numpy as np

from dynvgd_jax.core.normalize import load_normalization
from dynvgd_jax.core.untrusted import sha256
from dynvgd_jax.demos.dataset import Dataset, is_hdf5, load_dataset, require_same_sizes
from dynvgd_jax.demos.files import (
    read_dppo,
    read_robomimic,
    write_dppo,
    write_trajectories,
)
from dynvgd_jax.runs.durable import new_folder, refuse_existing
from dynvgd_jax.runs.settings import versions

SOURCE_FILE = "source.json"


def convert_dataset(
    source: str | Path, output: str | Path, normalization: str | Path | None = None
) -> str:
    """Writes `train.npz`, `normalization.npz` and `source.json` to a new folder.

    Args:
      source: robomimic's low-dimensional HDF5, or DPPO's `train.npz`.
      output: new folder.
      normalization: npz with the scale. For HDF5, which holds raw values, None fits it
        to the data; for `train.npz`, which is scaled already, None is the
        `normalization.npz` beside it, and its values stay as they are.

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
            episodes = read_robomimic(source)
            if scale is not None:
                require_same_sizes(
                    source, episodes[0].obs, episodes[0].actions, scale, normalization
                )
            write_dppo(partial, episodes, scale)
        else:
            data = read_dppo(source)
            if scale is None:
                normalization = source.with_name("normalization.npz")
                scale = load_normalization(normalization)
            require_same_sizes(source, data.states, data.actions, scale, normalization)
            write_trajectories(partial, data, scale)
        origin = {
            "converted_from": source.name,
            "sha256": sha256(source),
            "versions": versions(),
        }
        text = json.dumps(origin, indent=2) + "\n"
        (partial / SOURCE_FILE).write_text(text, encoding="utf-8")
        return _describe(load_dataset(partial / "train.npz", "can"))


def _describe(data: Dataset) -> str:
    text = (
        f"{len(data.lengths):,} episodes, {len(data.obs):,} control steps, observation "
        f"{data.obs.shape[1]}, action {data.actions.shape[1]}"
    )
    return text if np.any(data.rewards) else text + ", no reward"
