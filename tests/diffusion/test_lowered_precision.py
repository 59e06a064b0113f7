"""What CUDA is given says its precision, where no global setting does.

Products that say none are TensorFloat-32 on NVIDIA GPUs. tests/conftest.py sets the
precision of the whole process, so these run in another one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def lowered(*precisions):
    """What the functions' products say, for each of them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.lowered", *precisions],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()[-len(precisions) :]]
    return dict(zip(precisions, found, strict=True))


@pytest.fixture(scope="module")
def usual():
    """Of one process, whose start takes longest."""
    return lowered("default", "float32")


def test_a_policy_decodes_in_float32_unless_told_otherwise(usual):
    found = usual["default"]
    assert set(found) == {"sample", "fine-tuned", "ddpm"}
    assert set(map(tuple, found.values())) == {("precision = [HIGHEST, HIGHEST]",)}


@pytest.mark.parametrize(
    ("precision", "word"),
    [("float32", "HIGHEST"), ("tf32", "HIGH")],
)
def test_decodes_pretraining_and_audit_have_the_configured_one(usual, precision, word):
    found = (usual if precision in usual else lowered(precision))[precision]
    assert set(found) == {
        *("sample", "fine-tuned", "ddpm", "audit", "audit judge"),
        *("act", "explore", "update"),
        *("pretrain update", "pretrain validation", "pretrain decode"),
    }
    for name, said in found.items():
        # Frozen weights are multiplied together once, always exactly.
        allowed = [f"precision = [{w}, {w}]" for w in dict.fromkeys((word, "HIGHEST"))]
        assert f"precision = [{word}, {word}]" in said, name
        assert set(said) <= set(allowed), name
