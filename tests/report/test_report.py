"""The whole report: page, figures, CSV files, and the command."""

import csv
import re

import numpy as np
import pytest

from dynvgd_jax.report import build, files, reading, scalars
from dynvgd_jax.report.build import build_report
from dynvgd_jax.report.command import main
from dynvgd_jax.report.grouping import group
from dynvgd_jax.report.page import cell_text, inline
from dynvgd_jax.report.reading import find_runs
from dynvgd_jax.report.statistics import Estimate
from tests.report.made_runs import learning_scalars, make_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two tasks; several methods and seeds, one of which has just begun."""
    root = tmp_path_factory.mktemp("made") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        for method in ("dynvgd", "vgd", "dsrl_na"):
            for seed in (0, 1):
                curves = learning_scalars(seed, method, range(100, 2000, 100), 2000)
                own = {"method": method, "seed": seed, "scalars": curves}
                own["evaluations"] = ((1000, 5), (2000, 7 + seed))
                make_run(root / f"{method}-{seed}", patch, **own)
        make_run(root / "<b>&", patch, method="edit", evaluations=())
        make_run(root / "square", patch, task="square", evaluations=((1000, 5),))
    return root


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "report"
    build_report([runs], output)
    return output


def rows(report, name):
    with open(report / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_says_what_it_must(report):
    page = (report / "index.html").read_text()
    text = re.sub(r"<[^>]*>", "", page)
    for words in (
        "8 runs, 6 finished; 5 settings of can, DDIM 8, square, DDIM 8",
        "square is unfinished: 1,000 of 2,000 control steps",
        "can, DDIM 8: edit has no evaluation yet",
        "Success at 2,000 control steps",
        "interquartile mean",
        "P(X &gt; Y)",
        "steps to 90%",
        "λ_t and w over training",
        "λ_t is constant",
        "No run here wrote: TD error with λ and w.",  # of Square
        "guide/entropy_coefficient",
        "What differs in the configurations",
        "python launch.py --config=configs/can_ddim8.py",
        "robosuite",
        "&lt;b&gt;&amp;",  # a folder's name is text
    ):
        assert words in text, words
    assert "<b>" not in page


def test_the_page_stands_alone(report):
    """Nothing is loaded: no address, no script; every link leads to a file of it."""
    page = (report / "index.html").read_text()
    assert "http:" not in page and "https:" not in page and "<script" not in page
    for link in re.findall(r'(?:href|src)="([^"]*)"', page):
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in page, link
        elif link != "data:,":
            assert (report / link).exists(), link
    assert "url(" not in page.replace("url(#", "")
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page


def test_every_figure_is_there_as_png_and_svg(report):
    names = {path.stem for path in (report / "figures").iterdir()}
    for name in ("success_steps", "success_minutes", "iqm", "improvement", "lambda_t"):
        assert f"can_ddim8_{name}" in names
    for name in ("w", "td_lambda", "td_error", "q", "spread", "critic_grad_norm"):
        assert f"can_ddim8_{name}" in names
    assert "can_ddim8_guide_entropy_coefficient" in names
    assert "square_ddim8_success_steps" in names and "square_ddim8_w" not in names
    assert all(files._FIGURE.fullmatch(f"{name}.png") for name in names)
    for name in names:
        png = (report / "figures" / f"{name}.png").read_bytes()
        assert png[:4] == b"\x89PNG" and len(png) > 3000
        assert "<svg" in (report / "figures" / f"{name}.svg").read_text()


def test_the_numbers_are_beside_it(report):
    found = rows(report, "evaluations")
    own = [r for r in found if r["setting"] == "dynvgd" and r["task"] == "can, DDIM 8"]
    assert [(r["control steps"], r["success"], r["of each seed"]) for r in own] == [
        ("1000", "0.5", "0.500, 0.500"),
        ("2000", "0.75", "0.700, 0.800"),
    ]
    assert own[1]["success low"] == "0.1146897632" and own[1]["minutes"] == "2.0"
    (steps,) = (
        r for r in rows(report, "steps_to")
        if (r["setting"], r["seed"], r["success"]) == ("vgd", "1", "0.8")
    )  # fmt: skip
    assert (steps["control steps"], steps["minutes"]) == ("2000", "2.0")
    pairs = {(r["task"], r["X"], r["Y"]): r for r in rows(report, "improvement")}
    pair = pairs["can, DDIM 8", "dynvgd", "vgd"]
    assert (pair["P(X > Y)"], pair["X - Y, over episodes"]) == ("0.5", "0.0")
    seeds = {r["run"]: r for r in rows(report, "runs")}
    assert seeds["runs/dynvgd-1"]["seed"] == "1"
    assert seeds["runs/square"]["state"] == "unfinished"
    fields = {r["field"]: r for r in rows(report, "fields")}
    assert set(fields) == {"method", "task"}
    correlations = {r["setting"]: r for r in rows(report, "td_lambda")}
    assert float(correlations["dynvgd"]["rank correlation"]) < -0.99
    assert correlations["vgd"]["remark"] == "λ_t is constant"
    names = {r["quantity"] for r in rows(report, "scalars")}
    assert {"lambda_t", "w", "td_error", "q", "spread", "grad_norm"} <= names
    commands = [r["command"] for r in rows(report, "commands")]
    assert len(commands) == 8 and all(
        c.startswith("python launch.py") for c in commands
    )
    assert {path.stem for path in report.glob("*.csv")} == set(files.TABLES)
    assert {r["package"] for r in rows(report, "versions")} > {"jax", "mujoco"}


def test_curves_by_hand(tmp_path, monkeypatch):
    """lambda_t is lambda times w; Q the mean over the critics; one in four misses w."""
    values = {"guide/lambda_mean": 0.5, "train/q0_mean": -3.0, "train/q1_mean": -1.0}
    values |= {"train/q_std_inter_critic": 9.0, "train/td_error_mean": 4.0}
    curves = {step: values | {"guide/weight_mean": step / 8} for step in (1, 2, 3)}
    curves[4] = values
    make_run(tmp_path / "run", monkeypatch, scalars=curves)
    found = find_runs([tmp_path])
    own = scalars.effective_lambda(found.runs[0])
    assert own.steps.tolist() == [1, 2, 3]
    assert own.values == pytest.approx([1 / 16, 1 / 8, 3 / 16])
    assert scalars.mean_q(found.runs[0]).values.tolist() == [-2.0] * 4
    (panel,), _ = group(found.runs)
    ((x, y),) = scalars.td_and_lambda(panel.settings[0])
    assert x.tolist() == [4.0] * 3 and y == pytest.approx(own.values)
    assert scalars.correlation_table(panel).rows[0][4] == "fewer than 8 points"
    values = np.array([[1.0, np.nan], [3.0, 5.0]])
    ends = [part.tolist() for part in scalars.mean_and_ends(values)]
    assert ends == [[2.0, 5.0], [1.0, 5.0], [3.0, 5.0]]


def test_a_figure_within_the_page():
    svg = (
        '<?xml version="1.0"?><svg width="9" viewBox="0 0 9 9" xmlns="http://a/b">'
        '<metadata>x</metadata><path id="p" d="M 1.23456 7" style="fill: #0072b2"/>'
        '<use xlink:href="#p"/><text style="fill: #22262b">0.12345</text></svg>'
    )
    assert inline("f", 'a "name"', svg) == (
        '<svg viewBox="0 0 9 9" role="img" aria-label="a &#34;name&#34;">'
        '<path id="f-p" d="M 1.23 7" style="fill: var(--c0)"/>'
        '<use xlink:href="#f-p"/><text style="fill: var(--ink)">0.12345</text></svg>'
    )


def test_cells_as_text():
    cells = [
        None,
        float("nan"),
        12_345,
        0.12345,
        1234.5,
        Estimate(0.5, 0.25, 0.75),
        "x",
    ]
    texts = ["–", "–", "12,345", "0.123", "1,234.5", "0.500 [0.250, 0.750]", "x"]
    assert [cell_text(cell) for cell in cells] == texts


def test_the_command_and_the_same_again(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "run", monkeypatch, method="base", evaluations=())
    output = tmp_path / "report"
    argv = ["report", str(run), f"--output={output}"]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert f"wrote {output}/index.html" in said.out and "base/randn" in said.out
    assert said.out.splitlines()[-1] == f"look: xdg-open {output}/index.html"
    first = (output / "index.html").read_bytes()
    old = output / "figures/can_ddim4_w.png"  # of a run that is no longer among them
    old.write_text("")
    monkeypatch.setattr(reading, "PATIENCE_S", -1.0)  # as of many runs
    monkeypatch.setattr(build, "PATIENCE_S", -1.0)
    assert main([*argv, "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.splitlines()[-1].startswith("wrote ")
    assert main(argv) == 0  # replaces its own, and equal runs give equal pages
    bars = [line for line in capsys.readouterr().err.splitlines() if " left | " in line]
    assert "100.0%" in bars[-1] and "charts/s" in bars[-1]
    assert any("runs read/s" in line and line.endswith("| 1/1") for line in bars)
    with monkeypatch.context() as patch:
        patch.setattr(build, "build_report", lambda paths, output: ["it is unfinished"])
        assert main(argv) == main([*argv, "--quiet"]) == 0
    assert capsys.readouterr().err == "dynvgd_jax.report: it is unfinished\n"
    assert (output / "index.html").read_bytes() == first
    assert not old.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "report"}
    # Figures of another kind of policy are a report's too.
    flow = make_run(tmp_path / "flow", monkeypatch, policy_kind="flow_mlp")
    assert main(["report", str(flow), argv[-1]]) == 0
    assert list((output / "figures").glob("can_flow_mlp_8_steps_*.png"))
    assert main(argv) == 0 and (output / "index.html").read_bytes() == first
    # A file of somebody else's keeps the folder as it is.
    capsys.readouterr()
    for name in ("mine.csv", "figures/mine.png"):
        (output / name).write_text("mine")
        assert main(argv) == 2
        assert f"holds other files, such as {name}; give" in capsys.readouterr().err
        assert (output / name).read_text() == "mine"
        (output / name).unlink()
    # So does a page that is not the report's.
    (output / "index.html").write_text("<html>mine</html>")
    assert main(argv) == 2
    assert (output / "comparison.csv").exists()


def test_an_interrupted_report_leaves_the_earlier_one(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", monkeypatch, method="base", evaluations=())
    output = tmp_path / "new/report"

    def interrupt(**_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "render", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_report([run], output)
    assert not output.parent.exists()
    build_report([run], output)
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(build, "render", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_report([run], output)
    assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == before
    # What a killed process leaves is in nobody's way.
    for name in (".report.new", "..report.new.partial", ".report.old"):
        (output.parent / name).mkdir()
    build_report([run], output)
    assert [path.name for path in output.parent.iterdir()] == ["report"]


def test_a_report_behind_a_link(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", monkeypatch, method="base", evaluations=())
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    build_report([run], tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk/index.html").exists()


def test_a_run_that_has_just_begun(tmp_path, monkeypatch):
    make_run(tmp_path / "run", monkeypatch, bases=(), evaluations=())
    notes = build_report([tmp_path / "run"], tmp_path / "report")
    assert any("run is unfinished: 0 of 2,000 control steps" in n for n in notes)
    assert "1 run, 0 finished" in (tmp_path / "report/index.html").read_text()
    assert rows(tmp_path / "report", "comparison") == []


def test_mistakes_are_one_line(runs, tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("")
    (taken / "data.csv").write_text("")
    for arguments, words in (
        ([], "found no folder, expected run folders"),
        ([tmp_path / "no"], "no is no run folder: there is no such folder"),
        ([taken], "holds no run"),
        (
            [runs, f"--output={taken}"],
            "holds other files, such as data.csv; give",
        ),
        ([runs, f"--output={taken / 'mine.txt'}"], "is a file, expected a folder"),
        ([runs, "--output="], "--output: found nothing"),
        ([runs, "--size=3"], "Unknown command line flag 'size'"),
    ):
        assert main(["report", *map(str, arguments)]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and words in line, line
    assert (taken / "data.csv").exists()
