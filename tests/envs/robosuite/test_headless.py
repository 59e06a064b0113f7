"""MuJoCo and robosuite on machines without graphics, folders to write to, silence."""

import logging
import os
import subprocess
import sys
from importlib import metadata

import pytest
from numba import config as numba_config

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs.robosuite import headless
from tests.support import namespaces
from tests.support.command import ROOT


@pytest.mark.parametrize(
    ("package", "version"),
    [("robosuite", "1.5.0"), ("mujoco", "3.10.0"), ("mujoco", "4.0.0")],
)
def test_unsuited_versions_are_refused(monkeypatch, package, version):
    real = metadata.version
    monkeypatch.setattr(
        headless.metadata,
        "version",
        lambda name: version if name == package else real(name),
    )
    with pytest.raises(UserError, match=f"{package} {version} is installed, expected"):
        headless.check_versions()


def test_missing_package_is_named(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(headless.metadata, "version", version)
    with pytest.raises(UserError, match="pip install robosuite=="):
        headless.check_versions()


PLAY = """
import sys
import numpy as np
from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv

assert "jax" not in sys.modules
env = RobosuiteVectorEnv("lift", 1, None, num_threads=1)
env.reset([0], [1])
assert not env.step([0], np.zeros((1, 2, 7))).fault[0]
env.close()
drawing = [name for name in sys.modules if name.startswith(("cv2", "OpenGL", "glfw"))]
assert not drawing, drawing
"""


def play(code=PLAY, options=(), **variables):
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
    )


OTHER_VARIABLES = (
    {"MUJOCO_GL": "egl", "CUDA_VISIBLE_DEVICES": "0", "MUJOCO_EGL_DEVICE_ID": "x"},
    {"MUJOCO_GL": "no such thing"},
)


@pytest.mark.parametrize(
    "variables",
    [
        {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"},
        *(pytest.param(found, marks=pytest.mark.slow) for found in OTHER_VARIABLES),
    ],
)
def test_variables_that_choose_graphics_decide_nothing(variables):
    same = f"import os\nassert {variables}.items() <= os.environ.items()\n"
    done = play(PLAY + same, **variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_launch_chooses_no_graphics(monkeypatch):
    """Nothing that trains draws, so that there is nothing to choose."""
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    same = "import os\nassert 'MUJOCO_GL' not in os.environ\n"
    done = play("import dynvgd_jax.launch\n" + same + PLAY + same)
    assert (done.returncode, done.stderr) == (0, "")


# Stops at any graphics module: for systems where namespaces are not allowed.
WITHOUT_MODULES = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("cv2", "OpenGL", "glfw"):
            raise ImportError(f"{name}: libGL.so.1: cannot open shared object file")

sys.meta_path.insert(0, Missing())
"""


def test_no_graphics_module_is_tried():
    done = play(WITHOUT_MODULES + PLAY)
    assert (done.returncode, done.stderr) == (0, "")


LIBRARIES_ARE_HIDDEN = """
import ctypes

for name in ("libGL.so.1", "libEGL.so.1", "libOSMesa.so"):
    try:
        ctypes.CDLL(name)
    except OSError:
        continue
    raise AssertionError(f"{name} can be loaded")
"""
ENTRY_POINTS = """
import importlib
import pathlib
import convert_torch_ckpt
import launch

modules = ["audit.run", "training.loop", "training.pretrain", "torch_weights.policy"]
for name in modules:
    importlib.import_module(f"dynvgd_jax.{name}")
for path in sorted(pathlib.Path("benchmarks").glob("*.py")):
    importlib.import_module(f"benchmarks.{path.stem}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{}, {"MUJOCO_GL": "egl"}])
def test_libraries_for_graphics_may_be_missing(variables):
    code = LIBRARIES_ARE_HIDDEN + PLAY + ENTRY_POINTS
    done = namespaces.run(namespaces.HIDE_GRAPHICS, ["-c", code], **variables)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_commands_run_without_libraries_for_graphics(tmp_path):
    """Demonstrations, pre-training on them, a run from that policy and its audit."""
    data, policy, run = (str(tmp_path / name) for name in ("data", "policy", "run"))
    env = ["--config.env.num_threads=1", "--config.num_envs=2"]
    commands = [
        ["launch.py", "--config=configs/lift_demos.py", f"--workdir={data}", *env]
        + ["--config.num_episodes=3"],
        ["launch.py", "--config=configs/lift_pretrain.py", f"--workdir={policy}"]
        + [f"--config.dataset={data}/train.npz", "--config.num_steps=5"]
        + ["--config.eval.episodes=1", "--config.eval.every_steps=5"]
        + ["--config.log.every_steps=5", "--config.validation_share=0.4"],
        ["launch.py", "--config=configs/lift_ddim8.py", f"--workdir={run}", *env]
        + [f"--config.base_policy={policy}/policy", "--config.critic.width=16"]
        + ["--config.first_rollout_env_steps=16", "--config.total_env_steps=64"]
        + ["--config.utd=1", "--config.batch_size=4", "--config.eval.episodes=1"],
        ["-m", "dynvgd_jax.audit", run, "--states=2", "--chunks=2", "--repeats=2"]
        + ["--num_envs=2", "--lengths=0.1"],
    ]
    for command in commands:
        variables = {"JAX_PLATFORMS": "cpu", "MUJOCO_GL": "osmesa"}
        done = namespaces.run(namespaces.HIDE_GRAPHICS, command, **variables)
        assert done.returncode == 0, done.stderr


def test_what_draws_says_what_to_do():
    for name in ("cv2", "robosuite.renderers.context.egl_context"):
        with pytest.raises(UserError, match=f"{name}.*import mujoco, cv2"):
            headless._stand_in(name).anything(1, size=2)


def test_robosuites_warnings_are_not_the_users(tmp_path):
    """Its docstrings hold invalid escapes, which Python names while it compiles them.

    A SyntaxWarning from Python 3.12 on; the older DeprecationWarning is asked for.
    """
    options = ["-W", "default", "-X", f"pycache_prefix={tmp_path}"]
    done = play("import dynvgd_jax.envs.robosuite.headless", options)
    assert done.returncode == 0
    assert "invalid escape" not in done.stderr


def test_numba_finds_no_folder_where_nothing_can_be_written(monkeypatch):
    monkeypatch.setattr(numba_config, "CACHE_DIR", "")
    assert headless.numba_can_keep(__file__)
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert not headless.numba_can_keep("/proc/version")


def test_without_any_folder_there_is_one_line(monkeypatch):
    def no_folder(prefix):
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(headless, "numba_can_keep", lambda file: False)
    monkeypatch.setattr(headless.tempfile, "mkdtemp", no_folder)
    with pytest.raises(UserError, match=r"machine code \(no usable"):
        headless.provide_numba_cache()


def test_a_readable_installation_needs_no_other_folder(monkeypatch, caplog):
    before = numba_config.CACHE_DIR
    with caplog.at_level(logging.WARNING):
        headless.provide_numba_cache()
    assert numba_config.CACHE_DIR == before and not caplog.text


@pytest.mark.slow
def test_a_read_only_installation_without_a_home_runs(tmp_path):
    """With robosuite's own engine: it compiles less, and ours asks for the same folder.

    (Shortens the test; `numba_can_keep` is what numba does to any compiled file.)
    """
    code = PLAY.replace("num_threads=1", "engine='robosuite'") + (
        "import os\n"
        "from numba import config\n"
        "from dynvgd_jax.envs.robosuite import control, headless\n"
        "assert headless.numba_can_keep(control.__file__)\n"
        "assert os.access(config.CACHE_DIR, os.W_OK)\n"
        "assert not os.access(control.__file__, os.W_OK)\n"
        "print(config.CACHE_DIR)\n"
    )
    no_home = {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none"}
    no_home |= {"TMPDIR": str(tmp_path), "NUMBA_CACHE_DIR": ""}
    done = namespaces.run(namespaces.READ_ONLY, ["-c", code], **no_home)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "set NUMBA_CACHE_DIR" in done.stderr
    assert not os.path.exists(done.stdout.strip())  # it was this process's


def test_macros_that_make_other_physics_end_the_command_with_one_line(tmp_path):
    """As users set them: in robosuite's macros_private.py, which its macros import."""
    code = (
        "import sys, types, launch\n"
        "private = types.ModuleType('robosuite.macros_private')\n"
        "private.SIMULATION_TIMESTEP = 0.004\n"
        "private.__file__ = 'site-packages/robosuite/macros_private.py'\n"
        "sys.modules['robosuite.macros_private'] = private\n"
        "config = '--config=configs/lift_demos.py'\n"
        "sys.exit(launch.main(['launch.py', config, '--workdir=' + sys.argv[1]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for words in ("SIMULATION_TIMESTEP is 0.004, expected 0.002", "macros_private.py"):
        assert words in done.stderr
