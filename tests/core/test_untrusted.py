"""Hostile npz files end in one line, before anything large is allocated."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.untrusted import load_npz


def write(path, header, content=b""):
    """An npz with one array `a` whose header says whatever `header` says."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", buffer.getvalue() + content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_equals_numpys_own_reader(tmp_path, save):
    arrays = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.int64(7),
        "flags": np.array([True, False]),
    }
    save(tmp_path / "x.npz", **arrays)
    found = load_npz(tmp_path / "x.npz", [*arrays, "absent"])
    with np.load(tmp_path / "x.npz") as expected:
        assert set(found) == set(arrays)
        for name in arrays:
            np.testing.assert_array_equal(found[name], expected[name])
            assert found[name].dtype == expected[name].dtype
            assert found[name].flags.writeable


@pytest.mark.parametrize(
    ("shape", "words"),
    [((10**12,), "bytes are others"), ((-1,), "bytes are others"), ((3,), "others")],
)
def test_a_header_that_lies_about_its_size(tmp_path, shape, words):
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    with pytest.raises(UserError, match=words):
        load_npz(write(tmp_path / "x.npz", header, b"\0" * 16), ["a"])


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    header = {"descr": "|u1", "fortran_order": False, "shape": (50_000_000,)}
    path = write(tmp_path / "x.npz", header, bytes(50_000_000))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="expected at most 1,000,000"):
            load_npz(path, ["a"], max_bytes=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_pickles_and_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="Python objects"):
        load_npz(tmp_path / "x.npz", ["a"])
    (tmp_path / "y.npz").write_bytes(b"no zip")
    for path in (tmp_path / "y.npz", tmp_path / "none.npz"):
        with pytest.raises(UserError, match="not a readable npz"):
            load_npz(path, ["a"])


def test_500_mutated_files_never_give_a_traceback(tmp_path):
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "x.npz", 0
    np.savez_compressed(path, a=np.arange(50.0), b=np.ones((3, 4), np.float32))
    good = path.read_bytes()
    for _ in range(500):
        bad = bytearray(good)
        for _ in range(rng.integers(1, 6)):
            bad[rng.integers(len(bad))] = rng.integers(256)
        path.write_bytes(bad[: rng.integers(len(bad))] if rng.random() < 0.2 else bad)
        try:
            load_npz(path, ["a", "b"])
        except UserError:
            refused += 1
    assert refused > 100
