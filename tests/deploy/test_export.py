"""An exported policy runs without this package, and decides as its controller."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import dynvgd_jax
from dynvgd_jax.core.errors import UserError
from examples import exported_policy
from tests.deploy.test_controller import INDICES, SEEDS, raw_obs
from tests.support.command import ROOT
from tests.support.saved_run import DECISIONS, ENV_STEPS

pytestmark = pytest.mark.slow

# Reads each file and writes what it decides for three rows, and for the first alone.
CHILD = """
import json, sys
import numpy as np
sys.modules["dynvgd_jax"] = None  # importing it fails, installed or not
sys.path.insert(0, sys.argv[1])
import exported_policy
for name in sys.argv[2:]:
    act, metadata = exported_policy.load_exported(f"{sys.argv[1]}/{name}.npz")
    given = np.load(f"{sys.argv[1]}/{name}.inputs.npz")
    three = act(given["obs"], given["seeds"], given["indices"])
    one = act(given["obs"][:1], given["seeds"][:1], given["indices"][:1])
    np.savez(f"{sys.argv[1]}/{name}.found.npz", three=three, one=one)
others = {"flax", "optax", "orbax", "ml_collections", "robosuite", "mujoco"}
assert not others & set(sys.modules), others & set(sys.modules)
"""


@pytest.fixture(scope="module")
def exported(agents, tmp_path_factory):
    """Every kind of decision exported, and run in a process that lacks the package."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copy(ROOT / "examples/exported_policy.py", folder)
    (folder / "child.py").write_text(CHILD)
    expected = {}
    for name, agent in agents.items():
        controller = agent.controller(3)
        controller.export(folder / f"{name}.npz")
        obs = raw_obs(agent, 3).astype(np.float32)
        inputs = {"obs": obs, "seeds": SEEDS, "indices": INDICES}
        np.savez(folder / f"{name}.inputs.npz", **inputs)
        expected[name] = controller.chunk(obs, SEEDS, INDICES)
    done = subprocess.run(
        # -I: neither the working directory nor PYTHONPATH
        [sys.executable, "-I", folder / "child.py", folder, *agents],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, expected


@pytest.mark.parametrize("name", DECISIONS)
def test_decides_as_its_controller(exported, name):
    folder, expected = exported
    with np.load(folder / f"{name}.found.npz") as found:
        assert found["three"].shape == expected[name].shape
        np.testing.assert_allclose(found["three"], expected[name], rtol=0, atol=1e-6)
        # another size of the batch sums in another order
        first = expected[name][:1]
        np.testing.assert_allclose(found["one"], first, rtol=0, atol=2e-5)


def test_says_what_it_is(exported):
    with np.load(exported[0] / "guided.npz") as file:
        metadata = json.loads(str(file["metadata"]))
        assert len(file.files) == metadata["num_weights"] + 2
    assert metadata["task"] == "can" and metadata["method"] == "dynvgd"
    sizes = [metadata[name] for name in ("obs_dim", "action_dim", "chunk_len")]
    assert sizes == [23, 7, 4] and metadata["candidates"] == 3
    assert metadata["control_steps"] == ENV_STEPS and metadata["ddim_steps"] == 4
    assert metadata["versions"]["dynvgd_jax"] == dynvgd_jax.__version__
    assert metadata["observation"][0] == ["robot0_eef_pos", 3]
    assert sum(size for _, size in metadata["observation"]) == 23


def test_holds_no_weight_that_is_not_used(agents, exported):
    """Neither the target critics nor Adam's moments."""
    agent = agents["guided"]
    needed = (agent.policy.params, agent.learner.critic.params)
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(needed))
    with np.load(exported[0] / "guided.npz") as file:
        weights = [file[n] for n in file.files if n.startswith("weight_")]
    # the scalars are the TD error and the number of updates
    assert count <= sum(w.size for w in weights) <= count + 2


def test_files_that_are_no_exported_policy(exported, tmp_path):
    whole = (exported[0] / "ticket.npz").read_bytes()
    (tmp_path / "text.npz").write_text("no zip")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # inside an array: its CRC is another
    (tmp_path / "flipped.npz").write_bytes(flipped)
    np.save(tmp_path / "array.npy", np.zeros(3))
    names = ("none.npz", "", "text.npz", "empty.npz", "cut.npz", "flipped.npz")
    for name in (*names, "array.npy"):
        with pytest.raises(ValueError, match="is missing or damaged"):
            exported_policy.load_exported(tmp_path / name)
    np.savez(tmp_path / "other.npz", weight_0=np.zeros(3))
    np.savez(tmp_path / "list.npz", metadata="[]", program=np.zeros(3, np.uint8))
    for name in ("other.npz", "list.npz"):
        with pytest.raises(ValueError, match="is no exported policy"):
            exported_policy.load_exported(tmp_path / name)


def test_a_damaged_file_is_noticed(exported, tmp_path):
    with np.load(exported[0] / "ticket.npz") as file:
        arrays = dict(file)
    arrays["weight_0"] = arrays["weight_0"] + 1
    np.savez(tmp_path / "damaged.npz", **arrays)
    with pytest.raises(ValueError, match=r"damaged\.npz is damaged"):
        exported_policy.load_exported(tmp_path / "damaged.npz")


def test_writes_over_nothing(agents, exported, tmp_path):
    controller = agents["ticket"].controller()
    with pytest.raises(UserError, match=r"ticket\.npz exists already"):
        controller.export(exported[0] / "ticket.npz")
    with pytest.raises(UserError, match=r"cannot write .*No such file"):
        controller.export(tmp_path / "none" / "ticket.npz")
    assert list(tmp_path.iterdir()) == []
