"""The script for a GPU machine, on a CPU: every part reports, whole or cut off."""

import json

import pytest

from benchmarks import accelerator, accelerator_parts
from dynvgd_jax.core.errors import UserError
from tests.support.reach import ReachEnv
from tests.support.tiny_run import PROPOSALS, tiny


def test_ceilings_of_every_precision():
    found = {
        what: value
        for what, value, _ in accelerator_parts.ceilings(accelerator_parts.TINY)
    }
    assert all(value > 0 for value in found.values())
    named = [f"product 64^3, {p}" for p in accelerator.PRECISIONS]
    assert sorted(found) == sorted([*named, "copy, read and written"])


def test_a_part_past_its_limit_is_cut_off_and_the_next_left_out(tmp_path, capsys):
    output = tmp_path / "found.json"
    arguments = ["--device=cpu", "--tiny", f"--output={output}", "--limit_s=0.2"]
    assert accelerator.main([*arguments, "--parts=ceilings,tf32"]) == 1
    report = json.loads(output.read_text())
    assert report["parts"]["ceilings"]["ended"] == "cut off after 0 s"
    assert report["parts"]["tf32"]["ended"] == "left out"
    assert report["machine"]["versions"]["jax"]
    assert "left out" in capsys.readouterr().out


def test_without_a_gpu_a_part_says_so():
    with pytest.raises(UserError, match="JAX finds none here and computes on cpu"):
        accelerator_parts.require_gpu()


def test_rows_of_a_part_that_was_cut_off(tmp_path):
    path = tmp_path / "rows"
    path.write_text('["copy", 2.5, "TB/s"]\n["product", 1')
    assert accelerator.read_rows(path) == {"copy": (2.5, "TB/s")}
    assert accelerator.read_rows(tmp_path / "none") == {}


def test_what_follows_from_several_parts_by_hand():
    found = {
        "ceilings": {
            "product 8192^3, tf32": (400.0, "TFLOP/s"),
            "copy, read and written": (3.0, "TB/s"),
        },
        "tf32": {
            "gradient step": (2.0, "ms"),
            "gradient step: products by formula": (400.0, "GFLOP"),
            "critics' parameters": (100.0, "MB"),
        },
        "bfloat16": {},
        "pytorch": {"gradient step, float32": (70.0, "ms")},
    }
    values = {what: value for _, what, value, _ in accelerator.derived(found)}
    # 400 GFLOP in 2 ms; 1 ms at 400 TFLOP/s; 9 x 100 MB at 3 TB/s are 0.3 ms
    assert values == {
        "gradient step: speed": pytest.approx(200.0),
        "gradient step: share of the plain product": pytest.approx(0.5),
        "gradient step: limit": pytest.approx(1.3),
        "gradient step: share of the limit": pytest.approx(0.65),
        "gradient step: times faster than PyTorch float32": pytest.approx(35.0),
    }


@pytest.mark.slow
def test_time_line_of_a_whole_run(toy_policy):
    config = tiny(toy_policy, **PROPOSALS)
    config = accelerator_parts.short_run(config, 40)
    rows = list(accelerator_parts.run_rows(config, ReachEnv))
    line = [value for what, value, _ in rows if what.startswith("vector step")]
    rate = {what: value for what, value, _ in rows}["control steps per second"]
    assert len(line) == 5 and min(line) > 0
    # the line is the whole time: 8 control steps a vector step
    assert 1e3 * 8 / sum(line) == pytest.approx(rate, rel=0.2)


@pytest.mark.slow
def test_parts_of_the_learner_end_to_end(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    # PyTorch's threads wait for each other: two take minutes where a core is busy
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = tmp_path / "found.json"
    arguments = ["--device=cpu", "--tiny", f"--output={output}", "--limit_s=400"]
    assert accelerator.main([*arguments, "--parts=ceilings,tf32,pytorch,seeds"]) == 0
    found = json.loads(output.read_text())["found"]
    assert found["tf32"]["gradient step: products"][0] > 0
    assert found["tf32"]["gradient step: share of the limit"][0] > 0
    assert found["tf32"]["acting, 8 environments: p50"][0] > 0
    assert found["pytorch"]["gradient step, float32"][0] > 0
    assert found["seeds"]["the same in times of one seed's: 2"][0] > 0
