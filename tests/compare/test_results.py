"""The table of a comparison, against numbers worked by hand."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from dynvgd_jax.compare import results
from dynvgd_jax.compare.plan import Plan, Run
from dynvgd_jax.core.errors import UserError

HEADING = "control_steps,policy,seed,success_any,success_chunk,return,length\n"


def make_run(folder, name, seed, lines, task="can", count=None):
    policy = f"{name}/tanh_randn,"
    last = [line for line in lines or () if policy in line]
    newest = [line for line in last if line.partition(",")[0] == last[-1].split(",")[0]]
    config = SimpleNamespace(
        method=name,
        acting_noise="tanh_randn",
        task=task,
        reward_offset=1.0,
        eval=SimpleNamespace(episodes=count or len(newest)),
    )
    run = Run(name, seed, folder / name / f"seed_{seed}", (), config, "", {})
    if lines is not None:
        run.folder.mkdir(parents=True)
        (run.folder / "eval.csv").write_text(HEADING + "".join(lines))
    return run


def episodes(steps, policy, successes, count, total):
    return [
        f"{steps},{policy},{i},1,{int(i < successes)},{total!r},8\n"
        for i in range(count)
    ]


def test_means_and_intervals(tmp_path):
    tables = {
        0: episodes(8, "base/tanh_randn", 4, 4, 0.0)
        + episodes(96, "vgd/tanh_randn", 4, 4, 0.0)
        + episodes(192, "vgd/tanh_randn", 1, 4, -3.0),
        1: episodes(192, "vgd/tanh_randn", 3, 4, -1.0),
    }
    runs = [make_run(tmp_path, "vgd", seed, tables[seed]) for seed in (0, 1)]
    runs.append(make_run(tmp_path, "vgd", 2, None))
    base = episodes(0, "base/randn", 4, 4, 0.0)
    base += episodes(0, "base/tanh_randn", 2, 4, -2.0)
    runs.append(make_run(tmp_path, "base", 0, base))
    runs.append(make_run(tmp_path, "dynvgd", 0, None))
    plan = Plan(tmp_path, "", {}, tuple(runs))
    rows = results.read_rows(plan, [runs[0], runs[1], runs[3]])
    assert [row.name for row in rows] == ["vgd", "base", "dynvgd"]
    vgd, plain, nothing = rows
    # rates 1/4 and 3/4: mean 1/2, standard error 1/4, t(1 degree of freedom) 12.706:
    # 1/2 +- 3.18, cut to [0, 1]
    assert vgd.values == [0.25, 0.75] and vgd.interval == (0.0, 1.0)
    # Wilson, 2 of 4, z^2 = 3.8415: centre 1/2, half width
    # 1.96 / (1 + z^2/4) sqrt(1/16 + z^2/64) = 0.3500
    assert plain.interval == pytest.approx((0.1500, 0.8500), abs=1e-4)
    assert nothing.found == ()
    results.write_table(tmp_path, rows)
    with open(tmp_path / "comparison.csv", newline="") as file:
        first, second, third = csv.DictReader(file)
    assert (first["control_steps"], first["seeds"], first["seeds_planned"]) == (
        *("192", "2"),
        "3",
    )
    assert float(first["success_mean"]) == 0.5 and float(first["return_mean"]) == -2.0
    assert (second["policy"], second["success_low"][:6]) == (
        "base/tanh_randn",
        "0.1500",
    )
    assert (third["seeds"], third["success_mean"]) == ("0", "")
    console = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results.results_table(rows))
    text = console.export_text()
    assert "0.500 [0.000, 1.000]" in text and "2 of 3" in text and "0 of 1" in text


def test_tasks_that_are_judged_by_return(tmp_path):
    """Each episode has 8 control steps, of which the offset is given back."""
    totals = ([992.0, 1192.0], [1392.0, 1592.0])
    runs = []
    for seed, returns in enumerate(totals):
        lines = [
            f"192,vgd/tanh_randn,{i},0,0,{total!r},8\n"
            for i, total in enumerate(returns)
        ]
        runs.append(make_run(tmp_path, "vgd", seed, lines, "hopper"))
    runs.append(make_run(tmp_path, "base", 0, None, "hopper"))
    plan = Plan(tmp_path, "", {}, tuple(runs))
    rows = results.read_rows(plan, runs[:2])
    assert rows[0].values == [1100.0, 1500.0]
    # mean 1300, standard error 200, t(1 degree of freedom) 12.7062
    assert rows[0].interval == pytest.approx((1300 - 2541.24, 1300 + 2541.24), abs=0.1)
    results.write_table(tmp_path, rows)
    with open(tmp_path / "comparison.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["return_mean"]) == 1300 and "success_mean" not in first
    # (1300 + 20.272305) / 3254.572305
    assert float(first["normalized_score_mean"]) == pytest.approx(40.566692)
    assert (second["seeds"], second["return_mean"]) == ("0", "")
    console = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results.results_table(rows))
    text = console.export_text()
    assert "1300.0 [-1241.2, 3841.2]" in text and "1100.0 to 1500.0" in text
    assert "40.6" in text and "uccess" not in text
    (one,) = results.read_rows(Plan(tmp_path, "", {}, (runs[0],)), runs[:1])
    assert one.interval[0] < 1100 < one.interval[1]


@pytest.mark.parametrize(
    "lines", [None, [], ["192,vgd/tanh_randn,0,1\n"], ["x,vgd/tanh_randn,0,1,1,0,8\n"]]
)
def test_a_damaged_evaluation_is_named(tmp_path, lines):
    run = make_run(tmp_path, "vgd", 0, lines)
    with pytest.raises(UserError, match=r"eval\.csv holds no evaluation of vgd/tanh"):
        results.read_last(run)


def test_an_evaluation_without_all_its_episodes_is_named(tmp_path):
    lines = episodes(192, "vgd/tanh_randn", 2, 3, -1.0)
    assert results.read_last(make_run(tmp_path, "vgd", 0, lines)).episodes == 3
    short = make_run(tmp_path, "vgd", 1, lines, count=4)
    with pytest.raises(UserError, match=r"the last has 3 of 4 episodes"):
        results.read_last(short)


def test_paths_of_logs_stand_beside_the_run():
    run = make_run(Path("x"), "vgd", 0, None)
    assert run.log == Path("x/vgd/seed_0.log") and run.label == "vgd seed 0"
