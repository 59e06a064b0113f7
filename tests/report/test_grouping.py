"""Which runs are compared, under which names, and what spoils the comparison."""

import json
import math
import shlex

import pytest
from absl import flags

from dynvgd_jax.core import overrides
from dynvgd_jax.core.fields import field_names, get_field
from dynvgd_jax.report.commands import command_of
from dynvgd_jax.report.events import read_command
from dynvgd_jax.report.grouping import group
from dynvgd_jax.report.reading import find_runs
from dynvgd_jax.report.tables import commands_table, comparison, improvement, over_tasks
from dynvgd_jax.runs.metrics import event_files
from dynvgd_jax.runs.settings import CONFIG_FILE, VERSIONS_FILE
from tests.report.made_runs import make_run


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a run in `runs/NAME`."""
    return lambda name, **own: make_run(tmp_path / "runs" / name, monkeypatch, **own)


def grouped(tmp_path):
    return group(find_runs([tmp_path / "runs"]).runs)


def test_seeds_settings_and_tasks(make, tmp_path):
    for seed in (0, 1):
        make(f"d{seed}", seed=seed)
    # What does not change a run's numbers makes no setting of its own.
    make("d2", seed=2, **{"env.num_threads": 3, "log.every_env_steps": 77})
    make("v", method="vgd")
    make("w", method="vgd", **{"guidance.scale": 0.02})
    make("square", task="square", ddim_steps=4)
    panels, notes = grouped(tmp_path)
    assert [panel.title for panel in panels] == ["can, DDIM 8", "square, DDIM 4"]
    labels = [(s.label, [r.config["seed"] for r in s.runs]) for s in panels[0].settings]
    assert labels == [
        ("dynvgd", [0, 1, 2]),
        ("vgd (guidance.scale=0.005)", [0]),
        ("vgd (guidance.scale=0.02)", [0]),
    ]
    assert notes == []


def test_settings_that_differ_in_much_have_their_folders_names(make, tmp_path):
    make("matched-seed0", method="vgd")
    changes = {"gamma": 0.99, "batch_size": 3, "utd": 1, "learning_rate": 1.0}
    make("published/seed0", method="vgd", **changes)
    (panel,), _ = grouped(tmp_path)
    labels = [setting.label for setting in panel.settings]
    assert labels == ["vgd: runs/matched", "vgd: runs/published"]


def test_one_seed_twice_counts_once(make, tmp_path):
    make("short", evaluations=((1000, 2),))
    make("whole")
    (panel,), notes = grouped(tmp_path)
    assert [run.name for run in panel.settings[0].runs] == ["runs/whole"]
    assert notes == ["left out: runs/short has the settings and the seed of runs/whole"]


def test_what_must_be_equal_is_said_with_field_and_runs(make, tmp_path):
    for seed in range(4):
        make(f"d{seed}", seed=seed)
    make("v", method="vgd", bases=(("tanh_randn", 7),), **{"eval.seed": 5})
    make("d4", ddim_steps=4)
    path = tmp_path / "runs/v" / VERSIONS_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mujoco": "3.4.0"}))
    _, notes = grouped(tmp_path)
    place = "can, DDIM 8"
    text = "\n".join(notes)
    assert (
        f"{place}: eval.seed must be equal for a comparison, but is 5 in runs" in text
    )
    assert f"{place}: runs of different versions: mujoco is 3.4.0 in runs/v; " in text
    assert f"{place}: base/tanh_randn has other outcomes" in text
    assert "0.700 in runs/v; 0.600 in the other 4 runs" in text
    assert (
        "can: ddim_steps differs, each value has a part of its own: 4 in dynvgd" in text
    )
    assert len(notes) == 4


def test_another_kind_of_policy_has_a_part_of_its_own(make, tmp_path):
    make("d", policy_kind="diffusion_mlp")
    make("of_before", seed=1)
    path = tmp_path / "runs/of_before" / CONFIG_FILE
    config = json.loads(path.read_text())
    del config["policy_kind"]  # there was one kind
    path.write_text(json.dumps(config))
    make("f", policy_kind="flow_mlp", base_policy="builtin:can_flow")
    panels, notes = grouped(tmp_path)
    found = {panel.title: [s.label for s in panel.settings] for panel in panels}
    assert found == {"can, DDIM 8": ["dynvgd"], "can, flow_mlp, 8 steps": ["dynvgd"]}
    assert len(panels[0].settings[0].runs) == 2
    assert not [note for note in notes if "must be equal" in note]


def test_compared_where_all_were_evaluated(make, tmp_path):
    make("d", evaluations=((1000, 5), (2000, 8), (3000, 9)), total_env_steps=3000)
    make("v", method="vgd", evaluations=((1000, 6), (2000, 4)), total_env_steps=3000)
    make("b", method="base", evaluations=())
    make("e", method="edit", evaluations=())
    (panel,), notes = grouped(tmp_path)
    assert panel.compared_at == 2000
    assert [s.label for s in panel.trained] == ["dynvgd", "vgd"]
    assert notes == [
        "can, DDIM 8: edit has no evaluation yet that its seeds share",
        "can, DDIM 8: compared at 2,000 control steps, the last that all settings "
        "have; further go dynvgd 3,000",
    ]
    # Where there is no such point each has its own.
    make("w", method="golden_ticket", evaluations=((1500, 1),))
    (panel,), notes = grouped(tmp_path)
    assert panel.compared_at is None
    assert "compared at the last of each: dynvgd at 3,000, golden_ticket at" in notes[1]


def test_comparison_by_hand(make, tmp_path):
    """Seeds end at 0.8 and 0.6; the second never reaches 0.8."""
    make("d0", evaluations=((1000, 5), (2000, 8)))
    make("d1", seed=1, evaluations=((1000, 3), (2000, 6)))
    make("v0", method="vgd", evaluations=((1000, 4), (2000, (0, 1, 8, 9))))
    (panel,), _ = grouped(tmp_path)
    ours, other, *bases = comparison(panel).rows
    assert ours[:3] == ("dynvgd", 2, 2000)
    assert ours[3] == pytest.approx((0.7, 0.0, 1.0)) == ours[4]  # t(1)
    assert ours[5:] == ("2,000 (2 of 2)", "never (1 of 2)", "never (0 of 2)")
    assert other[3].value == 0.4 and 0.1 < other[3].low < 0.2  # Wilson
    assert [(row[0], row[3].value, row[5:]) for row in bases] == [
        ("base/randn", 0.4, ("never", "never", "never")),
        ("base/tanh_randn", 0.6, ("0", "never", "never")),
    ]
    pairs = {row[:2]: row[2:] for row in improvement(panel).rows}
    assert len(pairs) == 3 + 2
    chance, episodes, count, seeds = pairs["dynvgd", "vgd"]
    assert chance.value == 1 and count == 10
    # Seeds win 8 and 6 of the first episodes, vgd the first and the last two:
    # 0, 0, 1, 1, 1, 1, 0.5, 0.5, -1, -1.
    assert episodes.value == pytest.approx(0.3) and episodes.low < 0 < episodes.high
    assert seeds.value == pytest.approx(0.3) and math.isnan(seeds.low)  # vgd has one
    # The base policy is no seed: 0.7 in [0, 1], less 0.6.
    assert pairs["dynvgd", "base/tanh_randn"][3] == pytest.approx((0.1, -0.6, 0.4))
    # One seed reaches the base policy's 0.6, the other is above it.
    assert pairs["dynvgd", "base/tanh_randn"][0].value == 0.75


def test_over_tasks_by_hand(make, tmp_path):
    for task, wins in (("can", (9, 7)), ("square", (5, 3))):
        for seed in (0, 1):
            own = {"seed": seed, "task": task}
            make(f"{task}/d{seed}", evaluations=((1000, wins[seed]),), **own)
            make(f"{task}/v{seed}", evaluations=((1000, 7),), method="vgd", **own)
    panels, _ = grouped(tmp_path)
    rows = {row[:2]: row[2:] for row in over_tasks(panels).rows}
    # Of 0.3, 0.5, 0.7, 0.9 the middle two.
    assert rows["dynvgd", None][0].value == pytest.approx(0.6)
    assert rows["vgd", None][0].value == pytest.approx(0.7)
    # Can: a win and a tie, 0.75; Square: 0.
    assert rows["dynvgd", "vgd"][1].value == pytest.approx(0.375)
    assert over_tasks(panels[:1]) is None


def test_returns_and_successes_have_no_common_mean(make, tmp_path):
    for task in ("can", "gym:Pendulum-v1"):
        make(f"{task[:3]}/d", evaluations=((1000, 5),), task=task)
        make(f"{task[:3]}/v", evaluations=((1000, 7),), task=task, method="vgd")
    panels, _ = grouped(tmp_path)
    rows = {row[:2]: row[2:] for row in over_tasks(panels).rows}
    assert ("dynvgd", "vgd") in rows and all(mean is None for mean, _ in rows.values())
    headings = [comparison(panel).headings for panel in panels]
    assert [any("steps to" in h for h in own) for own in headings] == [True, False]


def test_the_command_names_the_nearest_configuration(make, tmp_path):
    make("a", ddim_steps=4, seed=3, total_env_steps=20_000_000, evaluations=())
    run = find_runs([tmp_path / "runs/a"]).runs[0]
    assert command_of(run) == (
        "python launch.py --config=configs/can_ddim4.py --config.eval.episodes=10 "
        f"--config.first_rollout_env_steps=0 --config.seed=3 --workdir={run.folder}"
    )


def test_the_command_as_it_was_typed(make, tmp_path, monkeypatch):
    typed = ["launch.py", "--config=configs/can_ddim8.py:quick", "--workdir=a b"]
    monkeypatch.setattr("sys.argv", ["/some/where/" + typed[0], *typed[1:]])
    make("a", evaluations=())
    monkeypatch.setattr("sys.argv", ["/some/where/study.py", "--fast"])
    make("b", seed=1, evaluations=())
    found = find_runs([tmp_path / "runs"]).runs
    assert command_of(found[0]) == f"python {shlex.join(typed)}"
    assert found[1].command == "study.py --fast"
    assert command_of(found[1]).startswith("python launch.py --config=configs/can_d")
    (panel,), _ = group(found)
    assert [r[-1] for r in commands_table([panel]).rows] == ["as typed", "worked out"]
    # Texts are no curves.
    assert set(found[0].curves) == {
        "eval_base/randn/success_rate",
        "eval_base/tanh_randn/success_rate",
    }
    for path in event_files(found[0].folder):
        path.unlink()
    assert read_command(found[0].folder) == ""


def test_the_command_makes_the_same_configuration(make, tmp_path):
    changes = {"explore.noises": ("randn",), "initial_critics": "a b", "gamma": 0.9}
    make("a", seed=7, method="vgd", **changes)
    run = find_runs([tmp_path / "runs/a"]).runs[0]

    def define(values):
        flags.DEFINE_string("workdir", None, "Folder.", flag_values=values)

    _, values = overrides.parse(shlex.split(command_of(run))[1:], define)
    config = values.config
    assert {n: get_field(config, n) for n in field_names(config)} == run.config
    assert values.workdir == str(run.folder)
