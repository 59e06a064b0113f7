"""What a saved agent refuses, though every shape fits."""

import shutil

import jax
import pytest

from dynvgd_jax.agent import load_agent, load_learner
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs.settings import read_config
from dynvgd_jax.steering.methods import build_method, state_shapes
from tests.support.saved_run import saved_run

# As many numbers each: HL-Gauss has 3 bins more at either end.
QUANTILES = {"critic.kind": "quantile", "critic.quantiles": 17}
BINS = {"critic.kind": "hl_gauss", "critic.bins": 11}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("critics")
    return {
        "quantile": saved_run(folder / "quantile", **QUANTILES | {"critic.bins": 11}),
        "hl_gauss": saved_run(folder / "hl_gauss", **BINS | {"critic.quantiles": 17}),
    }


@pytest.mark.parametrize("own", ["quantile", "hl_gauss"])
def test_critics_of_another_kind_are_refused_by_name(runs, own):
    (other,) = {*runs} - {own}
    agents = {name: load_agent(folder) for name, folder in runs.items()}
    shapes = [state_shapes(agent.method) for agent in agents.values()]
    assert jax.tree.map(lambda x: x.shape, shapes[0]) == (
        jax.tree.map(lambda x: x.shape, shapes[1])
    )
    config, method = agents[own].config, agents[own].method
    load_learner(runs[own], config, method)
    message = (
        f"{other} holds critics of critic.kind '{other}', expected '{own}'; "
        f"give --config.critic.kind={other}"
    )
    with pytest.raises(UserError, match=message):
        load_learner(runs[other], config, method)
    with pytest.raises(UserError, match=message):
        load_agent(runs[other], {"critic.kind": own})


def test_bins_of_another_range_are_refused(runs):
    config = read_config(runs["hl_gauss"]).unlock()
    config.critic.v_min -= 1.0
    method = build_method(config, load_agent(runs["hl_gauss"]).policy)
    with pytest.raises(UserError, match=r"holds critics of critic\.v_min -?[\d.]+, ex"):
        load_learner(runs["hl_gauss"], config, method)
    # what other kinds do not read decides nothing
    config = read_config(runs["quantile"]).unlock()
    config.critic.v_min -= 1.0
    load_learner(runs["quantile"], config, load_agent(runs["quantile"]).method)


def test_untrained_critics_are_named(runs, finished_run, tmp_path, caplog):
    run = shutil.copytree(runs["quantile"], tmp_path / "run")
    load_agent(run)
    (record,) = caplog.records
    assert record.message == (
        f"checkpoint 640 of {run} has untrained critics, which steer at random: it was "
        "written before the first training call"
    )
    caplog.clear()
    load_agent(finished_run)
    load_agent(run, {"method": "base"})
    (run / "source.json").write_text("{}")  # of critics that come from a file
    load_agent(run)
    assert caplog.records == []
