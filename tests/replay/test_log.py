"""What is read back equals the ring buffer on the device, whatever it overwrote."""

import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import Transition
from dynvgd_jax.replay import ring as replay
from dynvgd_jax.replay.log import ReplayLog

OBS, ACTION, ROWS = 3, 2, 2  # sizes; transitions a vector step


def transitions(number):
    """The `number`-th vector step's, every value another."""
    rng = np.random.default_rng(number)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return Transition(draw(ROWS, OBS), draw(ROWS, ACTION), draw(ROWS), draw(ROWS, OBS),
                      np.float32([0, 1]))  # fmt: skip


def record(folder, capacity, checkpoints, vector_steps):
    """Returns a log written at `checkpoints` and the buffer that saw the same."""
    log = ReplayLog(folder, capacity)
    ring = replay.init_replay(capacity, OBS, ACTION)
    for number in range(vector_steps):
        log.add(transitions(number))
        ring = replay.add(ring, transitions(number))
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
    empty = replay.init_replay(capacity, OBS, ACTION)
    restored = replay.refill(empty, again.read((capacity,), OBS, ACTION), again.total)
    for found, expected in zip(restored.data, ring.data, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (restored.cursor, restored.size) == (ring.cursor, ring.size)
    after = [replay.add(state, transitions(99)) for state in (restored, ring)]
    for found, expected in zip(after[0].data, after[1].data, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("capacity", [100, 8, 7])
def test_two_devices_share_every_vector_step(tmp_path, capacity):
    log, _ = record(tmp_path, capacity + 2 * ROWS, (2, 3, 7), vector_steps=11)
    found = log.read((2, capacity), OBS, ACTION, step_rows=ROWS)
    for device in range(2):
        ring = replay.init_replay(capacity, OBS, ACTION)
        for number in range(11):
            share = [part[device : device + 1] for part in transitions(number)]
            ring = replay.add(ring, Transition(*share))
        for part, expected in zip(found, ring.data, strict=True):
            np.testing.assert_array_equal(part[device], expected)


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
