"""The package as it is installed: what it needs, and what lies where."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dynvgd_jax.core import config_file

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IGNORED = shutil.ignore_patterns("__pycache__")


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and line[0] not in "#-"]
    return {r.name: next(iter(r.specifier)).version for r in found}


def ranges(*extras):
    project = PROJECT["project"]
    texts = list(project["dependencies"])
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    return {r.name: r.specifier for r in map(Requirement, texts)}


def test_every_pin_lies_in_its_range():
    needed = ranges("slurm") | {"mujoco-mjx": ranges("mjx")["mujoco-mjx"]}
    pinned = pins("requirements.txt")
    assert set(pinned) - set(needed) == {"jaxlib"}  # comes with jax, of its version
    assert pinned["jaxlib"] == pinned["jax"]
    tools = {
        n: s
        for n, s in ranges("dev", "docs", "gym", "torch", "video").items()
        if n not in needed
    }
    del tools["dynvgd_jax"]  # its own extra
    others = pins("requirements-dev.txt") | pins("requirements-torch.txt")
    assert set(others) == set(tools)
    for name, version in (pinned | others).items():
        if name != "jaxlib":
            assert version in (needed | tools)[name], name


@pytest.fixture
def installed(tmp_path):
    """A folder for sys.path, laid out like the wheel."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "dynvgd_jax", site / "dynvgd_jax", ignore=IGNORED)
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source, target in wheel["force-include"].items():
        shutil.copytree(ROOT / source, site / target, ignore=IGNORED)
    return site


def test_an_installed_package_holds_its_configurations(installed, tmp_path):
    def launch(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "dynvgd_jax.launch", *arguments],
            cwd=elsewhere,
            env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stderr

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in config_file.config_files():
        line = launch(f"--config={name}", "--config.seed=x")
        assert line.startswith("launch.py: config.seed: found 'x', expected int"), line
    line = launch("--config=configs/no.py")
    assert f"looked in {elsewhere}/configs and {installed}/dynvgd_jax/shipped" in line
    # one's own file begins with the program's base
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "mine.py").write_text(
        "from configs import base\nget_config = base.get_config\n"
    )
    line = launch("--config=configs/mine.py", "--config.utd=x")
    assert line.startswith("launch.py: config.utd: found 'x', expected int"), line
    # and one with the name of the program's comes first
    shutil.copy(
        elsewhere / "configs" / "mine.py", elsewhere / "configs" / "square_ddim8.py"
    )
    line = launch("--config=configs/square_ddim8.py:quick")
    assert "takes 0 positional arguments" in line
