"""What is read back equals the ring buffer on the device, whatever it overwrote."""

import hashlib
import io

import jax
import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import Transition
from dynvgd_jax.replay import ring as replay
from dynvgd_jax.replay.log import ReplayLog
from tests.support.stored import (
    EXAMPLE,
    EXAMPLE_WITH_EXTRAS,
    FLAT_DIM,
    OBS_DIM,
    assert_same_bits,
    random_extras,
)

ROWS = 2  # transitions a vector step
add = jax.jit(replay.add)


def transitions(number):
    """The `number`-th vector step's, every value another, with all extras."""
    rng = np.random.default_rng(number)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return Transition(
        obs=draw(ROWS, OBS_DIM),
        action=draw(ROWS, FLAT_DIM),
        reward=draw(ROWS),
        next_obs=draw(ROWS, OBS_DIM),
        discount=np.float32([1, 0]),
        ended=np.array([number % 2, 1], bool),
        extras=random_extras(number, ROWS),
    )


def record(folder, capacity, checkpoints, vector_steps):
    """Returns a log written at `checkpoints` and the buffer that saw the same."""
    log = ReplayLog(folder, capacity)
    ring = replay.init_replay(capacity, EXAMPLE_WITH_EXTRAS)
    for number in range(vector_steps):
        log.add(transitions(number))
        ring = add(ring, transitions(number))
        if number + 1 in checkpoints:
            log.write()
    log.write()
    return log, ring


# capacities: never full, overwritten several times, odd, smaller than a segment
@pytest.mark.parametrize("capacity", [100, 8, 7, 3])
@pytest.mark.parametrize("checkpoints", [(), (1, 2, 7), (5, 6, 10)])
def test_read_equals_the_buffer(tmp_path, capacity, checkpoints):
    log, ring = record(tmp_path, capacity, checkpoints, vector_steps=11)
    again = ReplayLog(tmp_path, capacity, log.segments)
    assert again.total == 11 * ROWS
    empty = replay.init_replay(capacity, EXAMPLE_WITH_EXTRAS)
    content = again.read((capacity,), EXAMPLE_WITH_EXTRAS)
    restored = replay.refill(empty, content, again.total)
    jax.tree.map(assert_same_bits, restored.data, ring.data)
    assert (restored.cursor, restored.size) == (ring.cursor, ring.size)
    after = [add(state, transitions(99)) for state in (restored, ring)]
    jax.tree.map(assert_same_bits, after[0].data, after[1].data)


@pytest.mark.parametrize("capacity", [100, 8, 7])
def test_two_devices_share_every_vector_step(tmp_path, capacity):
    log, _ = record(tmp_path, capacity + 2 * ROWS, (2, 3, 7), vector_steps=11)
    found = log.read((2, capacity), EXAMPLE_WITH_EXTRAS, step_rows=ROWS)
    for device in range(2):
        ring = replay.init_replay(capacity, EXAMPLE_WITH_EXTRAS)
        for number in range(11):
            share = jax.tree.map(
                lambda part, i=device: part[i : i + 1], transitions(number)
            )
            ring = add(ring, share)
        own = jax.tree.map(lambda part, i=device: part[i], found)
        jax.tree.map(assert_same_bits, own, ring.data)


def test_overwritten_segments_are_named_no_more_and_not_read(tmp_path):
    log, _ = record(tmp_path, 6, (1, 2, 3, 4, 5, 6, 7, 8), vector_steps=8)
    # 16 transitions, of which the buffer holds 10..15
    assert [s["name"] for s in log.segments] == ["10-12.npy", "12-14.npy", "14-16.npy"]
    (tmp_path / "0-2.npy").write_bytes(b"damaged")
    log.verify()
    log.keep([s["name"] for s in log.segments])
    assert len(list(tmp_path.iterdir())) == 3
    (tmp_path / "10-12.npy").unlink()
    with pytest.raises(UserError, match=r"10-12\.npy is missing"):
        log.verify()


def test_a_late_write_is_as_small_as_an_early_one(tmp_path):
    record(tmp_path, 1000, range(100), vector_steps=100)
    sizes = {path.stat().st_size for path in tmp_path.iterdir()}
    assert len(sizes) == 1 and len(list(tmp_path.iterdir())) == 100


def test_segments_of_other_transitions_are_named(tmp_path):
    log, _ = record(tmp_path, 10, (), vector_steps=2)
    with pytest.raises(UserError, match=r"0-4\.npy: found transitions uint8.*expected"):
        log.read((10,), EXAMPLE)


def test_segments_of_an_older_version_are_named(tmp_path):
    """They held float32 columns, and `done` alone."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 10), np.float32))
    (tmp_path / "0-4.npy").write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    old = {"first": 0, "rows": 4, "name": "0-4.npy", "sha256": digest}
    with pytest.raises(
        UserError, match="older version of this program, commit 9b190e2"
    ):
        ReplayLog(tmp_path, 10, [old]).read((10,), EXAMPLE)
