"""The benchmark of a gradient step by its proposals measures what it names."""

import pytest

from benchmarks import proposals


@pytest.mark.slow
def test_every_case_is_measured(capsys):
    found = proposals.main(["--calls=1"])
    assert list(found) == ["all 8", "4", "1", "4 and their edits", "decoded"]
    assert all((times > 0).all() for times in found.values())
    assert "decoded" in capsys.readouterr().out
