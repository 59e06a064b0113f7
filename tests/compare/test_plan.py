"""The runs of a comparison, and one line for what makes no sense."""

import json
import sys
from pathlib import Path

import pytest

from configs import base, compare_can
from configs.factors_can import FACTORS
from dynvgd_jax import launch
from dynvgd_jax.compare import local, records
from dynvgd_jax.compare.cluster import ClusterExecutor
from dynvgd_jax.compare.plan import make_plan
from dynvgd_jax.compare.run import make_executor
from dynvgd_jax.core import overrides
from dynvgd_jax.core.config_file import load_config
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import field_names, get_field, nested
from dynvgd_jax.runs.settings import write_config
from dynvgd_jax.steering.methods import METHODS
from tests.support.command import ROOT

PRESETS = ("", "ddim4", "quick", "quick_ddim4", "published", "published_quick")


@pytest.fixture
def config():
    """A comparison of two methods, as the command line changed it a little."""
    found = base.get_config()
    compare_can.add_comparison(found, "configs/can_ddim8.py", "")
    found.eval.episodes = 50
    found.explore.noises = ("randn", "tanh_randn")
    found.compare.methods = ("base", "vgd", "strong")
    found.compare.overrides = nested(
        {"strong.method": "vgd", "strong.guidance.scale": 0.02}
    )
    found.compare.seeds = (3, 1)
    return found


def test_runs_seed_by_seed_with_what_they_share_and_what_they_have_alone(config):
    plan = make_plan(config, Path("runs/x"))
    assert plan.shared == {
        "eval.episodes": 50,
        "explore.noises": ("randn", "tanh_randn"),
    }
    labels = [run.label for run in plan.runs]
    # nothing that a seed changes is in "base"
    assert labels == [
        "base seed 3",
        "vgd seed 3",
        "strong seed 3",
        "vgd seed 1",
        "strong seed 1",
    ]
    last = plan.runs[-1]
    assert last.flags == (
        "--config=configs/can_ddim8.py",
        "--config.eval.episodes=50",
        "--config.explore.noises=randn,tanh_randn",
        "--config.method=vgd",
        "--config.guidance.scale=0.02",
        "--config.seed=1",
        "--workdir=runs/x/strong/seed_1",
    )
    # the command makes just that configuration
    made = launch.parse(["launch.py", *last.flags]).config
    assert made == last.config
    assert (made.method, made.seed, made.guidance.scale) == ("vgd", 1, 0.02)
    assert (made.eval.episodes, made.num_seeds, made.job) == (50, 1, "train")


def test_a_configuration_of_ones_own_keeps_what_all_share(config):
    config.compare.overrides = nested({})
    config.compare.methods = ("dynvgd", "vgd")
    config.compare.configs.vgd = "configs/can_ddim8_vgd.py"
    runs = {run.name: run.config for run in make_plan(config, Path("x")).runs}
    assert (runs["vgd"].method, runs["vgd"].batch_size) == ("vgd", 1024)
    assert (runs["dynvgd"].method, runs["dynvgd"].batch_size) == ("dynvgd", 512)
    assert runs["vgd"].eval.episodes == runs["dynvgd"].eval.episodes == 50


def test_a_typed_field_is_for_all_even_where_it_changes_nothing(config):
    config.compare.overrides = nested({})
    config.compare.methods = ("dynvgd", "vgd")
    config.compare.configs.vgd = "configs/can_ddim8_vgd.py"
    typed = overrides.typed_fields(["", "--config=x", "--config.batch_size", "512"])
    assert typed == ("batch_size",)
    plan = make_plan(config, Path("x"), typed)
    runs = {run.name: run for run in plan.runs}
    assert runs["vgd"].config.batch_size == 512  # of its own file: 1024
    assert runs["vgd"].config.eval.episodes == 50
    assert "--config.batch_size=512" not in runs["dynvgd"].flags
    assert "batch_size" not in plan.shared
    assert (
        make_plan(config, Path("x"), ["job"]).runs == make_plan(config, Path("x")).runs
    )
    for field in ("method", "seed"):  # as they are anyhow, and still not one's to set
        with pytest.raises(
            UserError, match=rf"config\.{field}: found .*, but a compar"
        ):
            make_plan(config, Path("x"), [field])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ()}, ["compare.methods: found none, expected at least 1"]),
        ({"seeds": ()}, ["compare.seeds: found none"]),
        ({"methods": ("vdg",)}, ["found 'vdg', expected one of", "did you mean 'vgd'"]),
        ({"methods": ("vgd", "vgd")}, ["compare.methods: found vgd more than once"]),
        ({"methods": ("../vgd",)}, ["compare.methods: found '../vgd', expected names"]),
        ({"seeds": (1, 2, 1)}, ["compare.seeds: found 1 more than once"]),
        ({"seeds": (-1,)}, ["compare.seeds: found -1"]),
        ({"executor": "pbs"}, ["compare.executor: found 'pbs'", "local, slurm"]),
        ({"jobs": 0}, ["compare.jobs: found 0"]),
        ({"base": "configs/cn_ddim8.py"}, ["did you mean --config=configs/can_ddim8"]),
        (
            {"overrides": nested({"vgd.guidance.scal": 1.0})},
            ["method vgd: config.guidance.scal: no such field", "guidance.scale"],
        ),
        ({"overrides": nested({"vgd.gamma": 2.0})}, ["method vgd: config.gamma"]),
        (
            {"overrides": nested({"vgd.seed": 2})},
            ["overrides.vgd.seed", "leave it out"],
        ),
        ({"overrides": nested({"strong.method": "sac"})}, ["found 'strong'", "dynvgd"]),
    ],
)
def test_nonsense_is_one_line(config, changes, words):
    for name, value in changes.items():
        config.compare[name] = value
    with pytest.raises(UserError) as error:
        make_plan(config, Path("x"))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["seed", "method", "num_seeds"])
def test_what_the_comparison_gives_its_runs_is_not_set_beside_it(config, field):
    config[field] = "vgd" if field == "method" else 5
    with pytest.raises(
        UserError, match=rf"config\.{field}: found .*, but a comparison"
    ):
        make_plan(config, Path("x"))


@pytest.mark.parametrize("task", ["can", "square"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_shipped_comparisons(task, preset):
    config = load_config(f"{ROOT}/configs/compare_{task}.py:{preset}")
    known = [name for name in config.compare.methods if name in METHODS]
    if not preset.startswith("published"):
        assert set(known) == set(METHODS), "a method is missing in configs/compare_can"
    config.compare.methods = tuple(known)
    runs = make_plan(config, Path("x")).runs
    assert {run.config.task for run in runs} == {task}
    assert len({(run.config.eval.seed, run.config.eval.episodes) for run in runs}) == 1
    assert len({run.config.total_env_steps for run in runs}) == 1
    if preset.startswith("published"):
        return
    for field in (
        *("critic.num", "critic.width", "critic.depth", "learning_rate", "batch_size"),
        *("gamma", "explore.noises", "explore.hold_chunks", "acting_noise", "utd"),
        *("num_envs", "ddim_steps", "target_n_step", "proposals.noises"),
    ):
        assert len({get_field(run.config, field) for run in runs}) == 1, field


@pytest.mark.parametrize(("task", "preset"), [("can", ""), ("square", "short")])
def test_each_factor_differs_from_quick_in_what_it_says_alone(task, preset):
    config = load_config(f"{ROOT}/configs/factors_{task}.py:{preset}")
    plan = make_plan(config, Path("x"))
    assert len(plan.runs) == 2 * len(FACTORS)
    quick = next(run.config for run in plan.runs if run.name == "quick")
    expected = load_config(f"{ROOT}/configs/{task}_ddim8.py:quick").unlock()
    expected.eval.noises = ("tanh_randn",)
    if preset:
        expected.total_env_steps = expected.eval.every_env_steps = 64_000
    assert quick == expected.lock()
    for run in plan.runs[: len(FACTORS)]:
        differ = {
            name: get_field(run.config, name)
            for name in field_names(quick)
            if get_field(run.config, name) != get_field(quick, name)
        }
        assert differ == FACTORS[run.name], run.name


def test_unknown_presets_are_named():
    with pytest.raises(UserError, match=r"unknown preset 'quik'.*mean 'quick'"):
        load_config("configs/compare_can.py:quik")


def test_the_folder_of_another_comparison_is_refused_with_what_differs(
    config, tmp_path
):
    plan = make_plan(config, tmp_path / "runs")
    assert records.check_folder(plan, 2) == []
    plan.workdir.mkdir()
    records.write(plan, 2)
    before = (plan.workdir / "comparison.json").read_bytes()
    assert records.check_folder(plan, 2) == []
    # more methods, more seeds and other places for the same are the same comparison
    config.compare.methods += ("dynvgd",)
    config.compare.seeds += (2,)
    config.checkpoint.every_env_steps = 800
    more = make_plan(config, tmp_path / "runs")
    assert records.check_folder(more, 2) == []
    [note] = records.check_folder(more, 1)
    assert "1 core(s), before 2" in note
    config.compare.overrides.strong.guidance.scale = 0.03
    config.eval.episodes = 60
    config.compare.methods = ("base", "strong")
    with pytest.raises(UserError) as error:
        records.check_folder(make_plan(config, tmp_path / "runs"), 2)
    for words in (
        "config.eval.episodes: 50 -> 60",
        "strong: config.guidance.scale: 0.02 -> 0.03",
        "it has also the runs vgd seed 3, vgd seed 1",
        "nothing was changed",
    ):
        assert words in str(error.value)
    assert (plan.workdir / "comparison.json").read_bytes() == before


def test_a_run_that_its_configuration_file_no_longer_makes_is_named(config, tmp_path):
    plan = make_plan(config, tmp_path / "runs")
    plan.workdir.mkdir()
    records.write(plan, 1)
    run = plan.runs[1]
    other = run.config.copy_and_resolve_references().unlock()
    other.gamma, other.log.every_env_steps = 0.9, 1
    run.folder.mkdir(parents=True)
    write_config(run.folder, other)
    with pytest.raises(UserError, match=r"vgd seed 3: config\.gamma: 0\.9 -> 0\.999"):
        records.check_folder(plan, 1)


def test_runs_that_were_started_by_hand_are_taken_up(config, tmp_path):
    plan = make_plan(config, tmp_path / "runs")
    run = plan.runs[1]
    run.folder.mkdir(parents=True)
    write_config(run.folder, run.config)
    run.log.write_text("")
    assert records.check_folder(plan, 1) == []
    # as strictly as ever
    config.gamma = 0.9
    with pytest.raises(UserError, match=r"vgd seed 3: config\.gamma: 0\.999 -> 0\.9"):
        records.check_folder(make_plan(config, tmp_path / "runs"), 1)
    for name in ("vgd/notes.txt", "seed_1"):
        (tmp_path / "runs" / name).write_text("kept")
        with pytest.raises(UserError, match=r"holds no comparison\.json"):
            records.check_folder(plan, 1)
        (tmp_path / "runs" / name).unlink()
    (run.folder / "config.json").rename(run.folder / "other.json")
    with pytest.raises(UserError, match=r"holds no comparison\.json"):
        records.check_folder(plan, 1)


@pytest.mark.parametrize(
    "content", [None, "{}", '{"base": 1, "shared": {}, "runs": 2}']
)
def test_a_folder_that_holds_something_else_is_refused(config, tmp_path, content):
    (tmp_path / "thesis.tex").write_text("kept")
    if content is not None:
        (tmp_path / "comparison.json").write_text(content)
    words = "damaged" if content else "holds no comparison.json; nothing was changed"
    with pytest.raises(UserError, match=words):
        records.check_folder(make_plan(config, tmp_path), 1)


def test_comparison_json_names_every_run(config, tmp_path):
    plan = make_plan(config, tmp_path)
    records.write(plan, 2)
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["base"] == "configs/can_ddim8.py"
    run = content["runs"][2]
    assert (run["method"], run["seed"], run["folder"]) == ("strong", 3, "strong/seed_3")
    assert run["overrides"] == {"method": "vgd", "guidance.scale": 0.02}
    assert run["finished"] is False


def test_missing_clusters_and_libraries_are_one_line(config, tmp_path, monkeypatch):
    config.compare.executor = "slurm"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="found slurm, but its commands sbatch, srun"):
        make_executor(config, tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"needs submitit .* pip install submitit"):
        ClusterExecutor(tmp_path, ("launch",), config.compare.slurm)


def test_a_printed_command_has_the_cores_of_its_run(config, monkeypatch):
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda pid: {2, 3, 5, 6})
    monkeypatch.setattr(local, "usable_cores", lambda: 4)
    run = make_plan(config, Path("x")).runs[0]
    alone = local.LocalExecutor(1, ("launch",))
    assert alone.command(run, 1) == ["launch", *run.flags] and alone.cores == 4
    two = local.LocalExecutor(2, ("launch",))
    for place, cores in enumerate(["2,3", "5,6", "2,3"]):
        pinned = ["taskset", "-c", cores, "launch", *run.flags]
        assert two.command(run, place) == pinned
    assert two.cores == 2


def test_cores_are_shared_equally(monkeypatch):
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda pid: {2, 3, 5, 6, 7})
    monkeypatch.setattr(local, "usable_cores", lambda: 5)
    assert local.core_shares(1) == [(2, 3, 5, 6, 7)]
    assert local.core_shares(2) == [(2, 3), (5, 6)]  # 5 / 2: one stays idle
    assert local.core_shares(7) == [(2,), (3,), (5,), (6,), (7,), (2,), (3,)]
    # a container that may use the time of two of them
    monkeypatch.setattr(local, "usable_cores", lambda: 2)
    assert local.core_shares(2) == [(2,), (3,)]
