"""A run of several seeds: each has the folder that it would have alone."""

import contextlib
import io
import re
import shutil

import numpy as np
import pytest

from dynvgd_jax import load_agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs.settings import read_config
from dynvgd_jax.training.loop import train
from tests.support.reach import PowerCutError, ReachEnv, breaking
from tests.support.same_run import arrays, assert_equal_runs, scalars
from tests.support.tiny_run import VECTOR_STEP, random_policy, tiny

pytestmark = pytest.mark.usefixtures("shared_programs")

SEEDS = 2


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    policy = random_policy(tmp_path_factory.mktemp("policy") / "policy")
    return tiny(policy, num_seeds=SEEDS, seed=3)


@pytest.fixture(scope="module")
def said(tmp_path_factory, config, shared_programs):
    """The folder of a run and what it wrote to stderr."""
    folder, err = tmp_path_factory.mktemp("seeds") / "run", io.StringIO()
    with contextlib.redirect_stderr(err):
        summaries = train(config, folder, make_env=ReachEnv)
    assert list(summaries) == [3, 4]
    assert [len(found) for found in summaries.values()] == [4, 4]
    return folder, err.getvalue()


@pytest.fixture(scope="module")
def run(said):
    return said[0]


def test_every_evaluation_is_a_line_as_it_ends(said):
    lines = re.findall(r"^evaluated at .*$", said[1], re.MULTILINE)
    # two start noises of the base policy, then both seeds twice
    assert len(lines) == 2 + 4
    assert "at 0 control steps: base/" in lines[0]
    assert "seed 3, dynvgd/" in lines[2] and "seed 4, dynvgd/" in lines[3]
    assert f"at {24 * VECTOR_STEP} control steps" in lines[-1]


@pytest.mark.slow
def test_every_seed_leaves_what_its_own_run_leaves(run, config, tmp_path):
    assert sorted(path.name for path in run.iterdir()) == ["seed3", "seed4"]
    alone = read_config(run / "seed4")
    assert (alone.seed, alone.num_seeds) == (4, 1)
    train(alone, tmp_path / "alone", make_env=ReachEnv)
    names = {path.name for path in (tmp_path / "alone").iterdir()}
    others = {path.name for path in (run / "seed4").iterdir()}
    assert {n for n in names if "tfevents" not in n} <= others
    last = config.total_env_steps
    want, found = arrays(tmp_path / "alone", last), arrays(run / "seed4", last)
    assert want.keys() == found.keys()
    for name, value in want.items():  # stacked products round in another order
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)
    assert scalars(run / "seed4").keys() == scalars(tmp_path / "alone").keys()
    # the same episodes and start noises of the unguided policy
    rows = [
        (p / "eval.csv").read_text().splitlines()
        for p in (run / "seed4", run / "seed3")
    ]
    assert [r for r in rows[0] if ",base/" in r] == [
        r for r in rows[1] if ",base/" in r
    ]
    assert rows[0] != rows[1]


@pytest.mark.slow
def test_a_seed_can_be_loaded_and_goes_on_alone(run, config, tmp_path):
    assert load_agent(run / "seed3").env_steps == config.total_env_steps
    with pytest.raises(UserError, match=r"give one of them: .*run/seed3, .*run/seed4"):
        load_agent(run)
    shutil.copytree(run / "seed3", tmp_path / "alone")
    more = read_config(tmp_path / "alone").copy_and_resolve_references()
    more.total_env_steps += 2 * VECTOR_STEP
    train(more.lock(), tmp_path / "alone", make_env=ReachEnv, resume=True)
    assert load_agent(tmp_path / "alone").env_steps == more.total_env_steps


@pytest.mark.slow
def test_broken_off_between_the_seeds_it_goes_on_bit_for_bit(run, config, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(PowerCutError):  # steps are counted over both seeds
        train(config, folder, make_env=breaking(2 * (16 + 20) + 1))
    newest = max(
        (folder / "seed4" / "checkpoints").iterdir(), key=lambda p: int(p.name)
    )
    shutil.rmtree(newest)  # as if it had died while it saved the second seed
    train(config, folder, make_env=ReachEnv, resume=True)
    for seed in ("seed3", "seed4"):
        assert_equal_runs(folder / seed, run / seed)


def test_other_numbers_of_seeds_are_refused(run, config, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for changes, message in (
        ({"num_seeds": 3}, "seed5 is no run folder.*it holds 2 seeds"),
        ({"num_seeds": 1}, "holds no config.json; it holds 2 seeds"),
    ):
        other = config.copy_and_resolve_references()
        other.update(changes)
        with pytest.raises(UserError, match=message):
            train(other.lock(), tmp_path / "run", make_env=ReachEnv, resume=True)
    with pytest.raises(UserError, match="holds a run already"):
        train(config, tmp_path / "run", make_env=ReachEnv)
