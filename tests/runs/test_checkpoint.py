"""Checkpoints come back bit for bit, or a UserError says why not."""

import json
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs import checkpoint
from dynvgd_jax.runs.checkpoint import CheckpointStore, restore_tree, save_tree
from tests.support.threads import no_threads_left


class Counters(NamedTuple):
    updates: jax.Array
    control_steps: int


def make_tree(scale=1.0):
    params = {"Dense_0": {"kernel": jnp.full((2, 3), scale), "bias": jnp.zeros(3)}}
    return {
        "params": params,
        # chain(...) holds EmptyState, a NamedTuple without leaves
        "opt_state": optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(params),
        "td_error": jnp.float32(7.5),
        "half": jnp.ones(2, jnp.bfloat16),
        "seeds": np.arange(4, dtype=np.int64),
        "nothing": np.zeros((0, 5), np.float32),
        "counters": Counters(jnp.int32(3), 2**40),
    }


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_round_trip_keeps_structure_types_and_bits(tmp_path):
    tree = make_tree(1 / 3)
    save_tree(tmp_path / "a", tree)
    assert_same(restore_tree(tmp_path / "a", make_tree()), tree)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_template_may_be_abstract(tmp_path):
    params = {"w": jnp.arange(3.0)}
    save_tree(tmp_path / "a", params)
    template = jax.eval_shape(lambda: {"w": jnp.zeros(3)})
    restored = restore_tree(tmp_path / "a", template)
    assert isinstance(restored["w"], jax.Array)
    np.testing.assert_array_equal(restored["w"], [0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("half"), ["unexpected: half"]),
        (lambda t: t.update(extra=jnp.zeros(1)), ["missing: extra"]),
        (
            lambda t: t["params"]["Dense_0"].update(kernel=jnp.zeros((3, 2))),
            ["params/Dense_0/kernel", "float32[2, 3]", "expected float32[3, 2]"],
        ),
        (lambda t: t.update(half=jnp.ones(2)), ["bfloat16[2]", "expected float32[2]"]),
        (lambda t: t.update(seeds=1.0), ["int64[4]", "expected float64[]"]),
    ],
)
def test_other_keys_shapes_and_dtypes_are_named(tmp_path, change, words):
    save_tree(tmp_path / "a", make_tree())
    template = make_tree()
    change(template)
    with pytest.raises(UserError) as caught:
        restore_tree(tmp_path / "a", template)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_incomplete_and_existing_folders(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        restore_tree(tmp_path / "none", make_tree())
    (tmp_path / "half").mkdir()
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        restore_tree(tmp_path / "half", make_tree())
    with pytest.raises(UserError, match="exists already"):
        save_tree(tmp_path / "half", make_tree())


def test_every_truncated_or_flipped_file_is_noticed(tmp_path):
    tree = {"w": jnp.arange(300.0), "b": jnp.ones(2)}
    save_tree(tmp_path / "a", tree)
    files = sorted(p for p in (tmp_path / "a").rglob("*") if p.is_file())
    for file in files:
        good = file.read_bytes()
        middle = len(good) // 2
        flipped = good[:middle] + bytes([good[middle] ^ 0x5A]) + good[middle + 1 :]
        for bad in (b"", good[:middle], flipped, None):
            if bad is None:
                file.unlink()
            else:
                file.write_bytes(bad)
            with pytest.raises(UserError) as caught:
                restore_tree(tmp_path / "a", tree)
            assert "\n" not in str(caught.value)
            file.write_bytes(good)
    assert_same(restore_tree(tmp_path / "a", tree), tree)


def test_a_hand_edited_manifest_is_refused(tmp_path):
    save_tree(tmp_path / "a", {"w": jnp.ones(2)})
    manifest = tmp_path / "a" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["leaves"]["w"]["dtype"] = "int32"
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        restore_tree(tmp_path / "a", {"w": jnp.ones(2, jnp.int32)})
    content["digest"] = checkpoint._digest(content)
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"int32\[2\], expected float32\[2\]"):
        restore_tree(tmp_path / "a", {"w": jnp.ones(2)})
    with pytest.raises(UserError, match="not those of the manifest"):
        restore_tree(tmp_path / "a", {"w": jnp.ones(2, jnp.int32)})
    content["sha256"]["_METADATA"] = "0"
    content["leaves"]["w"]["dtype"] = "float32"
    content["digest"] = checkpoint._digest(content)
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match="_METADATA missing or not as saved"):
        restore_tree(tmp_path / "a", {"w": jnp.ones(2)})


def test_arrays_of_another_checkpoint_are_noticed_before_they_are_read(
    tmp_path, monkeypatch
):
    """All checksums fit: a hostile file, whose arrays are larger than it says."""
    save_tree(tmp_path / "a", {"w": jnp.ones(2)})
    save_tree(tmp_path / "large", {"w": jnp.ones(20_000)})
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    other = json.loads((tmp_path / "large" / "manifest.json").read_text())
    manifest["sha256"] = other["sha256"]
    manifest["digest"] = checkpoint._digest(manifest)
    (tmp_path / "large" / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(
        "orbax.checkpoint.Checkpointer.restore", lambda *a, **k: pytest.fail("read")
    )
    with pytest.raises(UserError, match="not those of the manifest"):
        restore_tree(tmp_path / "large", {"w": jnp.ones(2)})


def lose(folder):
    """Ways in which a writer can leave something out without a word."""

    def unmerged(arrays):  # what Orbax did where the path had brackets
        (arrays / "manifest.ocdbt").unlink()
        shutil.rmtree(arrays / "d")

    def elsewhere(arrays):  # what TensorStore did where it had a backslash
        unmerged(arrays)
        shutil.rmtree(arrays / "ocdbt.process_0")

    def no_content(arrays):
        largest = max(arrays.rglob("*/d/*"), key=lambda path: path.stat().st_size)
        largest.unlink()

    def no_description(arrays):
        (arrays / "_METADATA").unlink()

    def nothing(arrays):
        shutil.rmtree(arrays)
        arrays.mkdir()

    return (unmerged, elsewhere, no_content, no_description, nothing)[folder]


@pytest.mark.parametrize("way", range(5))
def test_a_save_that_loses_a_part_is_an_error_and_leaves_nothing(
    tmp_path, monkeypatch, way
):
    original = checkpoint._write_arrays

    def write(folder, arrays):
        original(folder, arrays)
        lose(way)(folder)

    monkeypatch.setattr(checkpoint, "_write_arrays", write)
    store = CheckpointStore(tmp_path / "checkpoints")
    with pytest.raises(OSError, match="cannot be read back"):
        store.save(5, {"w": np.random.default_rng(0).normal(size=3000)})
    assert store.steps() == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", range(5))
def test_sums_of_an_incomplete_checkpoint_make_it_no_sound_one(tmp_path, way, capfd):
    """As earlier versions wrote them where the path had brackets."""
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(5, {"w": np.random.default_rng(0).normal(size=3000)})
    store.verify(5)
    folder = tmp_path / "checkpoints" / "5"
    lose(way)(folder / "arrays")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = checkpoint._hash_files(folder / "arrays")
    manifest["digest"] = checkpoint._digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="use another checkpoint") as caught:
        store.verify(5)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_save_that_reads_back_as_other_values_is_an_error(tmp_path, monkeypatch):
    original = checkpoint._write_arrays

    def write(folder, arrays):
        broken = arrays["w"].copy()
        broken.view(np.uint8)[17] ^= 1  # one bit
        original(folder, arrays | {"w": broken})

    monkeypatch.setattr(checkpoint, "_write_arrays", write)
    tree = {"b": np.ones(2), "w": np.full(3, np.nan), "none": np.zeros((0, 2))}
    with pytest.raises(OSError, match="reads back other values of w"):
        save_tree(tmp_path / "a", tree)
    assert list(tmp_path.iterdir()) == []


def test_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_tree(tmp_path / "a", {"w": jnp.ones(2)})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_inside_orbax_is_an_os_error(tmp_path):
    """A limit on file sizes stops TensorStore's own writes, as a full disk does."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).normal(size=100_000)  # does not compress
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="arrays"):
            save_tree(tmp_path / "a", {"w": noise})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
    save_tree(tmp_path / "a", {"w": noise})


def test_every_file_is_on_the_disk_before_the_folder_appears(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def record(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr("os.fsync", record)
    save_tree(tmp_path / "a", {"w": jnp.ones(2)})
    names = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*")}
    partial = tmp_path / ".a.partial"
    before = {p.relative_to(partial) for p in synced if p.is_relative_to(partial)}
    assert names <= before
    assert synced[-1] == tmp_path


def test_store_keeps_what_it_is_told_and_no_threads(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.latest() is None
    with pytest.raises(UserError, match="no checkpoint 5"):
        store.restore(5, {"w": jnp.ones(1)})
    for step in (800, 9_600, 48_000):  # 9600 > 800 as numbers, not as text
        store.save(step, {"w": jnp.full(1, float(step))})
    (tmp_path / "checkpoints" / ".99999.partial").mkdir()
    store.keep([9_600, 48_000, 123])
    assert store.steps() == [9_600, 48_000]
    assert store.latest() == 48_000
    assert store.restore(9_600, {"w": jnp.ones(1)})["w"] == 9_600.0
    with no_threads_left():
        for step in range(50_000, 50_005):
            store.save(step, {"w": jnp.zeros(1)})
