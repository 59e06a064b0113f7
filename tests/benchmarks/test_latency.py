"""The benchmark of latencies times what it says."""

import numpy as np
import pytest

from benchmarks import latency
from dynvgd_jax.core.errors import UserError
from tests.support.saved_run import saved_run


def test_times_every_case(tmp_path, capsys):
    folder = saved_run(tmp_path / "run")
    found = latency.main([str(folder), "--calls=5", "--batch_size=2"])
    assert list(found) == ["controller", "frozen policy alone", "matrix product"]
    assert all(len(times) == 5 and (times > 0).all() for times in found.values())
    text = capsys.readouterr().out
    p50 = np.percentile(found["controller"], 50)
    assert "A decision for 2" in text and f"{p50:.2f}" in text
    with pytest.raises(UserError, match="--calls: found 0, expected 1 up"):
        latency.main([str(folder), "--calls=0"])


def test_the_product_has_as_many_operations(monkeypatch):
    made = []
    monkeypatch.setattr(latency.jax, "device_put", lambda a: made.append(a) or a)
    latency.square_product(2 * 7**3)  # of [7, 7] and [7, 7]
    assert made[0].shape == (7, 7)
