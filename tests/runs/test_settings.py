"""What a run's folder says about the program that made it."""

import subprocess
from pathlib import Path

import dynvgd_jax
from configs import base
from dynvgd_jax.core.fields import field_names
from dynvgd_jax.runs import settings


def test_the_programs_own_version_is_written():
    assert settings.versions()["dynvgd_jax"] == dynvgd_jax.__version__


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True)


def test_an_installed_copy_has_no_commit_of_the_repository_around_it(
    tmp_path, monkeypatch
):
    copy = tmp_path / "settings.py"
    copy.touch()
    monkeypatch.setattr(settings, "__file__", str(copy))
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "another project")
    assert settings.versions()["git_commit"] == "none"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "this project")
    assert len(settings.versions()["git_commit"]) == 40
    copy.write_text("changed")
    assert settings.versions()["git_commit"].endswith("+changes")


def test_what_runs_of_before_lack_has_the_meaning_that_it_had():
    """`fields_of_a_first_run.txt` are those of a run that has to load for ever."""
    first = Path(__file__).with_name("fields_of_a_first_run.txt").read_text().split()
    now = field_names(base.get_config())
    assert set(now) - set(first) <= set(settings.ADDED_FIELDS)
    assert set(settings.ADDED_FIELDS) <= set(now)
