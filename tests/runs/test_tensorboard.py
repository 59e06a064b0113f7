"""What TensorBoard shows beside scalars, read back by TensorBoard's own reader."""

import json
import re

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

from configs import base
from dynvgd_jax.agent import load_agent
from dynvgd_jax.envs.rollout import evaluate, evaluation_seeds
from dynvgd_jax.evaluate.play import steered_act
from dynvgd_jax.evaluate.videos import Recorder
from dynvgd_jax.runs.lock import FolderLock
from dynvgd_jax.runs.metrics import MetricsLog, event_files
from dynvgd_jax.runs.tensorboard import TRAIN_CHARTS
from tests.support.command import ROOT
from tests.support.reach import ReachEnv

STEERING = ROOT / "dynvgd_jax" / "steering"


def read(folder, *, files=None):
    """TensorBoard's view of a run: it keeps every point."""
    if files is not None:
        assert len(event_files(folder)) == files
    everything = {"scalars": 0, "tensors": 0, "histograms": 0}
    events = EventAccumulator(str(folder), size_guidance=everything)
    events.Reload()
    return events


def text(events, tag):
    (event,) = events.Tensors(f"{tag}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def test_a_run_begins_with_its_charts_and_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/launch.py", "--config=a b.py"])
    config = base.get_config()
    config.seed = 7
    MetricsLog(tmp_path, config).close()
    events = read(tmp_path, files=1)

    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    found = {
        group.title: {chart.title: tuple(chart.multiline.tag) for chart in group.chart}
        for group in layout.category
    }
    assert found == TRAIN_CHARTS

    start = events.summary_metadata["_hparams_/session_start_info"]
    content = hparams_metadata.parse_session_start_info_plugin_data(
        start.plugin_data.content
    )
    hparams = content.hparams
    assert hparams["seed"].number_value == 7
    assert hparams["guidance.scale"].number_value == config.guidance.scale
    assert hparams["task"].string_value == config.task

    assert text(events, "run/command") == "```\nlaunch.py '--config=a b.py'\n```"
    written = text(events, "run/configuration").removeprefix("```json\n")
    assert json.loads(written.removesuffix("```"))["seed"] == 7
    assert f"| numpy | {np.__version__} |" in text(events, "run/versions")


def test_a_run_that_goes_on_says_it_once(tmp_path):
    config = base.get_config()
    with MetricsLog(tmp_path, config) as log:
        log.scalars(10, {"train/success_rate": 0.5})
        sizes = log.sizes()
    MetricsLog(tmp_path, config, sizes, FolderLock(tmp_path)).close()
    assert len(read(tmp_path, files=2).Tensors("custom_scalars__config__")) == 1
    # one that had no checkpoint yet begins anew
    MetricsLog(tmp_path, config, {}, FolderLock(tmp_path)).close()
    assert len(read(tmp_path, files=1).Tensors("custom_scalars__config__")) == 1


@pytest.mark.parametrize(
    "values",
    [[3, 3, 3], [1.0, 2.0, 4.0, -8.0], [1e20, np.nextafter(1e20, 2e20)], [0.0]],
)
def test_a_histogram_holds_all_values(tmp_path, values):
    with MetricsLog(tmp_path, base.get_config()) as log:
        log.histogram(64, "eval/episode_length", values)
    (event,) = read(tmp_path).Histograms("eval/episode_length")
    found = event.histogram_value
    assert (event.step, found.num) == (64, len(values))
    assert (found.min, found.max) == (min(values), max(values))
    assert found.sum == sum(values)
    assert sum(found.bucket) == len(values)


def test_a_histogram_leaves_out_what_is_not_finite(tmp_path):
    with MetricsLog(tmp_path, base.get_config()) as log:
        log.histogram(64, "eval/return", [1.0, np.nan, np.inf, 2.0])
    (event,) = read(tmp_path).Histograms("eval/return")
    assert event.histogram_value.num == 2


def test_every_chart_shows_something(finished_run):
    tags = read(finished_run).Tags()
    code = "".join(path.read_text() for path in STEERING.rglob("*.py"))
    for group, charts in TRAIN_CHARTS.items():
        for title, patterns in charts.items():
            for pattern in patterns:
                if group.startswith("Actor"):  # of other methods
                    assert f'"{pattern[1:-1]}"' in code, title
                    continue
                assert any(re.search(pattern, tag) for tag in tags["scalars"]), title
    assert {"eval/episode_length", "eval/return"} <= {*tags["histograms"]}


def test_q_of_every_chunk_that_acted_in_an_evaluation(finished_run):
    """Equal to what the saved critics say of the same episodes, played again."""
    agent = load_agent(finished_run)
    config = agent.config
    seeds = evaluation_seeds(config.eval.seed, config.eval.episodes)
    recorder = Recorder(steered_act(agent, lambda metrics: None), seeds)
    env = ReachEnv(config.eval.num_envs)
    evaluate(env, recorder, seeds, reward_offset=config.reward_offset)
    obs, chunks = (
        np.concatenate(part)
        for part in zip(*map(recorder.episode, map(int, seeds)), strict=True)
    )
    expected = np.asarray(agent.method.value(agent.learner, obs, chunks).combined)
    events = read(finished_run).Histograms("eval/q")
    assert [event.step for event in events] == [
        event.step for event in read(finished_run).Histograms("eval/return")
    ]
    found = events[-1].histogram_value
    assert found.num == len(expected) == 3 * 8  # episodes x chunks until the time limit
    assert found.sum == pytest.approx(expected.sum(), rel=1e-4)
    assert (found.min, found.max) == pytest.approx(
        (expected.min(), expected.max()), rel=1e-4
    )


def test_the_base_policy_is_a_line_beside_the_steered_one(finished_run, toy_config):
    events = read(finished_run)
    steered = [event.step for event in events.Scalars("eval/success_rate")]
    kind = toy_config.eval.noises[0]
    line = events.Scalars(f"eval_base/{kind}/success_rate")
    assert [event.step for event in line] == [0, *steered]
    assert len({event.value for event in line}) == 1
