"""The benchmark of a gradient step by its proposals measures what it names."""

import pytest

from benchmarks import proposals

SMALL = """
from configs import square_ddim8

def get_config():
    config = square_ddim8.get_config("quick").unlock()
    config.utd, config.batch_size, config.critic.width = 2, 16, 32
    return config.lock()
"""


@pytest.mark.slow
def test_every_case_is_measured(tmp_path, capsys):
    (tmp_path / "small.py").write_text(SMALL)
    found = proposals.main([f"--config={tmp_path}/small.py", "--calls=1"])
    assert list(found) == ["all 8", "4", "1", "4 and their edits", "decoded"]
    assert all((times > 0).all() for times in found.values())
    assert "decoded" in capsys.readouterr().out
