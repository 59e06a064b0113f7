"""The command line: what it accepts, and one clear line for what it does not."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dynvgd_jax
from dynvgd_jax import launch
from dynvgd_jax.core.config_file import config_files
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.output import is_quiet

ROOT = Path(launch.__file__).parents[1]
SQUARE = f"--config={ROOT}/configs/square_ddim8.py"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """An empty working directory, so that default run folders are new."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def jobs(monkeypatch):
    """Replaces the jobs by recorders of their arguments."""
    calls = []
    for module, function in (
        ("dynvgd_jax.training.loop", "train"),
        ("dynvgd_jax.compare.run", "compare"),
        ("dynvgd_jax.training.pretrain", "pretrain"),
        ("dynvgd_jax.demos.collect", "run"),
        ("dynvgd_jax.demos.gym_demos", "run"),
        ("dynvgd_jax.demos.ppo", "train_agent"),
    ):
        fake = types.ModuleType(module)

        def job(config, workdir, module=module, stop=None, **options):
            calls.append((module, config, workdir, *options.items()))

        setattr(fake, function, job)
        monkeypatch.setitem(sys.modules, module, fake)
    return calls


def fail(capsys, *arguments):
    """Runs launch.py, expects exit code 2 and returns the one line on stderr."""
    assert launch.main(["launch.py", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("launch.py: ") and output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize("flags", [["--quiet"], ["--noquiet"], []])
@pytest.mark.parametrize("config", [SQUARE, "--config=configs/can_demos.py"])
def test_quiet_holds_while_the_job_runs(outside, jobs, monkeypatch, config, flags):
    heard = []
    monkeypatch.setattr(launch, "use_compile_cache", lambda: heard.append(is_quiet()))
    assert launch.main(["launch.py", config, *flags]) == 0
    assert heard == [flags == ["--quiet"]] and len(jobs) == 1 and not is_quiet()


def test_overrides_reach_the_job_in_a_locked_config(outside, jobs):
    code = launch.main(
        ["launch.py", SQUARE, "--config.critic.width=256", "--config.seed", "7"]
    )
    assert code == 0
    [(module, config, workdir)] = jobs
    assert module == "dynvgd_jax.training.loop"
    assert (config.critic.width, config.seed, config.task) == (256, 7, "square")
    assert workdir == Path("runs/square_ddim8-seed7")
    assert not workdir.exists()  # the job makes it, once it knows that it can start
    with pytest.raises(AttributeError):
        config.critc = 3


def test_resume_goes_to_training_and_may_have_a_folder(outside, jobs, capsys):
    folder = outside / "begun"
    folder.mkdir()
    (folder / "config.json").touch()
    arguments = [SQUARE, f"--workdir={folder}"]
    assert "exists and is not empty" in fail(capsys, *arguments)
    assert launch.main(["launch.py", *arguments, "--resume"]) == 0
    assert jobs[0][3:] == (("resume", True),)
    demos = SQUARE.replace("square_ddim8", "square_demos")
    assert "--resume is for training runs" in fail(capsys, demos, "--resume")


def test_seeds_share_a_folder(outside, jobs):
    seeds = ["--config.num_seeds=5", "--config.seed=2"]
    launch.main(["launch.py", SQUARE + ":quick", *seeds])
    assert jobs[0][2] == Path("runs/square_ddim8-quick-seeds2-6")
    too_many = ["--config.num_seeds=2", "--config.seed=2147483647"]
    with pytest.raises(UserError, match=r"config\.seed: found 2147483647, expected"):
        launch.parse(["launch.py", SQUARE, *too_many])


def test_preset_workdir_and_tuples(outside, jobs):
    launch.main(["launch.py", SQUARE + ":quick"])
    launch.main(
        [
            "launch.py",
            SQUARE,
            "--workdir=elsewhere",
            "--config.eval.noises=('tanh_randn',)",
        ]
    )
    (_, quick, quick_dir), (_, full, full_dir) = jobs
    assert quick.critic.width == 256 and full.critic.width == 2048
    assert quick_dir == Path("runs/square_ddim8-quick-seed0")
    assert full_dir == Path("elsewhere") and full.eval.noises == ("tanh_randn",)


def test_numbers_and_several_values_as_people_write_them(outside, jobs):
    (outside / "flags").write_text("--config.explore.hold_chunks=1,8\n")
    arguments = [
        "--config.seed=3",  # before --config
        SQUARE,
        "--config.total_env_steps=1e6",
        *("--config.eval.every_env_steps", "64000.0"),
        "--config.eval.noises=randn,tanh_randn",
        *("--config.explore.noises=randn", "--config.explore.noises=tanh_randn"),
        "--flagfile=flags",
        "--config.overlap",
    ]
    assert launch.main(["launch.py", *arguments]) == 0
    config = jobs[0][1]
    assert (config.seed, config.total_env_steps, config.overlap) == (3, 10**6, True)
    assert type(config.total_env_steps) is int
    assert config.eval.every_env_steps == 64_000
    assert config.eval.noises == config.explore.noises == ("randn", "tanh_randn")
    assert config.explore.hold_chunks == (1, 8)


def test_home_is_expanded_in_every_path(outside, jobs, monkeypatch):
    monkeypatch.setenv("HOME", str(outside))
    (outside / "ckpt").mkdir()
    (outside / "ckpt" / "policy.json").touch()
    (outside / "mine.py").write_text(
        "from configs import square_ddim8\n"
        "def get_config():\n"
        "    config = square_ddim8.get_config()\n"
        "    config.initial_critics = '~/critics'\n"
        "    return config\n"
    )
    code = launch.main(
        ["launch.py", "--config=~/mine.py", "--workdir=~/runs/a"]
        + ["--config.base_policy=~/ckpt", "--config.replay.offline_dataset=~/a.hdf5"]
    )
    assert code == 0
    pretrain = SQUARE.replace("_ddim8", "_pretrain")
    launch.main(["launch.py", pretrain, "--config.dataset=~/data/train.npz"])
    (_, train, workdir), (_, pretrain, _) = jobs
    assert workdir == outside / "runs" / "a"
    assert train.base_policy == str(outside / "ckpt")
    assert train.replay.offline_dataset == str(outside / "a.hdf5")
    assert train.initial_critics == str(outside / "critics")
    assert pretrain.dataset == str(outside / "data" / "train.npz")


def test_configurations_are_found_from_any_folder(outside, jobs, capsys):
    assert launch.main(["launch.py", "--config=configs/square_ddim8.py:quick"]) == 0
    assert jobs[0][1].task == "square"
    line = fail(capsys, "--config=configs/sqare_ddim8.py")
    assert f"looked in {outside}/configs and {ROOT}/configs; {ROOT} holds" in line
    line = fail(capsys, "--config=mine/square.py")
    assert f"looked in {outside}/mine; " in line
    line = fail(capsys, "--config=/nowhere/square.py")
    assert "looked in /nowhere; " in line
    # the working directory's own comes first
    (outside / "configs").mkdir()
    own = outside / "configs" / "square_ddim8.py"
    own.write_text(
        "from configs import base\n"
        "def get_config():\n"
        "    config = base.get_config()\n"
        "    config.task = 'lift'\n"
        "    return config\n"
    )
    assert launch.main(["launch.py", "--config=configs/square_ddim8.py"]) == 0
    assert jobs[1][1].task == "lift"


def test_job_field_chooses_the_module(outside, jobs):
    for job in ("pretrain", "demos"):
        launch.main(["launch.py", SQUARE, f"--config.job={job}"])
    assert [module for module, *_ in jobs] == [
        "dynvgd_jax.training.pretrain",
        "dynvgd_jax.demos.collect",
    ]
    assert jobs[1][2] == Path("data/square")


@pytest.mark.parametrize("name", [Path(f).name for f in config_files()])
@pytest.mark.parametrize("with_preset", [False, True])
def test_every_configuration_file_reaches_its_job(outside, jobs, name, with_preset):
    preset = "builtin" if "pretrain" in name else "quick"
    preset = "published_quick" if name.endswith("_vgd.py") else preset
    preset = "short" if name.startswith("factors_") else preset
    has_one = not name.endswith("_agent.py")
    suffix = f":{preset}" if with_preset and has_one else ""
    arguments = ["launch.py", f"--config={ROOT}/configs/{name}{suffix}"]
    assert launch.main(arguments) == 0
    assert jobs[0][1].task in name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no configuration given", "configs/can_ddim8.py"]),
        (
            ["--config=configs/sqare_ddim8.py"],
            ["did you mean --config=configs/square_ddim8.py"],
        ),
        (["--config=lift_ddim8"], ["did you mean --config=configs/lift_ddim8.py"]),
        (
            ["--config=configs"],
            ["--config: 'configs' is a folder", "such as configs/", "can_ddim8.py"],
        ),
        (["--config=/proc"], ["--config: '/proc' is a folder", "holds no Python file"]),
        ([SQUARE + ":quik"], ["unknown preset 'quik'", "quick"]),
        ([SQUARE, "--config.critic.widht=3"], ["widht", "config.critic.width"]),
        ([SQUARE, "--config.width=3"], ["nearest is config.critic.width"]),
        ([SQUARE, "--config.lr=3"], ["nearest is config.learning_rate"]),
        ([SQUARE, "--config.bogus", "3"], ["config.bogus: no such field"]),
        ([SQUARE, "--config.critic=5"], ["group of fields", "config.critic.num"]),
        ([SQUARE, "--config.seed=abc"], ["seed: found 'abc', expected int"]),
        ([SQUARE, "--config.seed=1.5"], ["found '1.5', expected int, such as 64000"]),
        ([SQUARE, "--config.seed=1e-3"], ["found '1e-3', expected int"]),
        ([SQUARE, "--config.seed=1,000"], ["found '1,000', expected int"]),
        ([SQUARE, "--config.seed=20k"], ["found '20k', expected int", "1e6"]),
        ([SQUARE, "--config.total_env_steps=1e12"], ["found 1000000000000, expected"]),
        ([SQUARE, "--config.overlap=yes"], ["expected bool, True or False"]),
        (
            [SQUARE, "--config.eval.noises", "randn", "tanh_randn"],
            ["found 'tanh_randn'", "written --config.eval.noises=a,b"],
        ),
        (
            [SQUARE, "--config.explore.hold_chunks=1.5"],
            ["hold_chunks: found '1.5', expected whole numbers, such as 1,1"],
        ),
        ([SQUARE, "--config.eval.noises=1,2"], ["expected words, such as tanh_randn"]),
        ([SQUARE, "--workdir=~no_such_user/a"], ["no home folder of that name"]),
        ([SQUARE, "--workdir="], ["--workdir: found nothing"]),
        ([SQUARE, "--config.base_policy=~no_such_user"], ["no home folder"]),
        (["--config=~no_such_user/a.py"], ["no home folder"]),
        ([SQUARE, "--config.gamma=x"], ["gamma: found 'x', expected float"]),
        ([SQUARE, "--config.seed"], ["Missing value", "config.seed"]),
        ([SQUARE, "--wrkdir=a"], ["wrkdir", "Did you mean: workdir"]),
        ([SQUARE, "stray"], ["found 'stray'"]),
        ([SQUARE, "--flagfile=/nowhere"], ["flagfile"]),
        ([SQUARE, "--config.task=scuare"], ["did you mean 'square'"]),
        ([SQUARE, "--config.method=sac"], ["expected one of dynvgd, vgd, base"]),
        ([SQUARE, "--workdir=/dev/null"], ["nothing was changed"]),
        ([SQUARE, "--workdir=/dev/null/x"], ["not writable"]),
        ([SQUARE, f"--workdir={'x' * 300}"], ["File name too long"]),
        ([SQUARE, f"--config.base_policy={'x' * 300}"], ["File name too long"]),
        ([f"--config={'x' * 300}"], ["File name too long"]),
    ],
)
def test_mistakes_give_one_line_and_code_2(outside, jobs, capsys, arguments, words):
    line = fail(capsys, *arguments)
    for word in words:
        assert word in line
    assert jobs == []


@pytest.mark.parametrize(
    "error", [MemoryError("9 GB"), RuntimeError("RESOURCE_EXHAUSTED: 9 GB")]
)
def test_memory_that_does_not_suffice_is_one_line(outside, capsys, monkeypatch, error):
    def run_job(*arguments):
        raise error

    monkeypatch.setattr(launch, "run_job", run_job)
    line = fail(capsys, SQUARE)
    assert "out of memory" in line and "9 GB" in line and "batch_size" in line


def test_an_existing_run_is_left_alone(outside, jobs, capsys):
    run = outside / "runs" / "square_ddim8-seed0"
    run.mkdir(parents=True)
    assert launch.main(["launch.py", SQUARE]) == 0  # empty is fine
    (run / "eval.csv").write_text("kept")
    assert "nothing was changed" in fail(capsys, SQUARE)
    assert (run / "eval.csv").read_text() == "kept"
    assert len(jobs) == 1


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("def get_config(:", "cannot be read"),
        ("import no_such_module", "cannot be read"),
        ("x = 1", "AttributeError"),
        ("def get_config(): return 1/'a'", "TypeError"),
        ("def get_config(): return {}", "no ConfigDict"),
    ],
)
def test_broken_configuration_files(outside, jobs, capsys, text, word):
    (outside / "mine.py").write_text(text)
    assert word in fail(capsys, "--config=mine.py")


NAMES = ["seed", "gamma", "critic.width", "critic", "eval.noises", "task", "env", "x"]


@settings(max_examples=30, deadline=None, derandomize=True)
@example(name="eval.noises", value="(1,", spaced=False)
@example(name="seed", value="9" * 40, spaced=True)
@given(st.sampled_from(NAMES), st.text(max_size=8), st.booleans())
def test_no_override_gives_a_traceback(name, value, spaced):
    flag = f"--config.{name}"
    arguments = [flag, value] if spaced else [f"{flag}={value}"]
    try:
        config, *_ = launch.parse(["launch.py", SQUARE, *arguments])
    except UserError:
        return
    assert config.job == "train"


def test_a_mistake_is_reported_without_heavy_imports(outside):
    code = (
        "import sys; from dynvgd_jax import launch;"
        "code = launch.main(['launch.py', '--config=no.py']);"
        "heavy = {'jax', 'mujoco', 'robosuite', 'torch', 'numba'} & set(sys.modules);"
        "sys.exit(code if not heavy else 99)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_help_names_the_configurations(capsys):
    assert launch.main(["launch.py", "--help"]) == 0
    assert "configs/square_ddim8.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ["launch.py"],
        ["-m", "dynvgd_jax.launch"],
        ["-m", "dynvgd_jax.audit"],
        ["convert_torch_ckpt.py"],
        ["-m", "dynvgd_jax.convert"],
    ],
)
def test_version(command):
    done = subprocess.run(
        [sys.executable, *command, "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == f"dynvgd_jax {dynvgd_jax.__version__}\n"
    assert done.returncode == 0 and done.stderr == ""


def test_a_pipe_without_a_reader_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "launch.py", "--help"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
