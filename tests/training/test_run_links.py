"""Links inside a run folder: refused before anything is removed, never followed."""

import os
import shutil

import numpy as np
import pytest

from dynvgd_jax import load_agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.replay.log import ReplayLog
from dynvgd_jax.runs.checkpoint import CheckpointStore
from dynvgd_jax.runs.durable import remove, remove_partials, write_durably
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.resume import OWN_FOLDERS, ResumeStore, lock_runs
from tests.replay.test_log import transitions
from tests.support.reach import ReachEnv

pytestmark = pytest.mark.usefixtures("shared_programs")


def content(folder):
    """Every path below with what is there, links as links."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[path] = os.readlink(path)
        elif path.is_file():
            found[path] = path.read_bytes()
        else:
            found[path] = None
    return found


def link_folder(name):
    def link(run, outside):
        shutil.move(run / name, outside / name)
        (run / name).symlink_to(outside / name)
        return name

    return link


def link_child(pattern):
    """Replaces a file or folder inside one of the run's folders."""

    def link(run, outside):
        path = max(run.glob(pattern))
        shutil.move(path, outside / path.name)
        path.symlink_to(outside / path.name)
        return path.name

    return link


def link_with(target):
    """A link that is not the run's at all: dangling, or to the user's things."""

    def link(run, outside):
        (run / "replay" / "notes.npy").symlink_to(target(outside))
        return "notes.npy"

    return link


@pytest.mark.parametrize(
    "link",
    [
        *(link_folder(name) for name in OWN_FOLDERS),
        link_child("checkpoints/*"),
        link_child("resume/[0-9]*[0-9]"),
        link_child("resume/*.json"),
        link_child("replay/*.npy"),
        link_child("checkpoints/*/arrays"),
        link_child("policy/policy.json"),
        link_child("eval.csv"),
        link_child("events.*"),
        link_with(lambda outside: outside / "no such file"),
        link_with(lambda outside: outside),
    ],
)
def test_a_run_with_a_link_inside_is_refused_and_nothing_changes(
    toy_config, finished_run, tmp_path, link
):
    run = shutil.copytree(finished_run, tmp_path / "run")
    outside = tmp_path / "mine"
    outside.mkdir()
    (outside / "0-10.npy").write_text("mine")
    name = link(run, outside)
    before = content(tmp_path)
    with pytest.raises(
        UserError, match=r"is a link to .*nothing was changed"
    ) as caught:
        train(toy_config, run, make_env=ReachEnv, resume=True)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert content(tmp_path) == before


def test_a_link_to_a_whole_run_folder_is_followed(toy_config, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "elsewhere")
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    train(toy_config, tmp_path / "run", make_env=ReachEnv, resume=True)


def test_checkpoints_behind_a_link_can_still_be_read(
    toy_config, finished_run, tmp_path
):
    """Nothing is deleted there: evaluations and audits may look."""
    shutil.copytree(finished_run, tmp_path / "elsewhere")
    run = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere" / "checkpoints")
    assert load_agent(run).env_steps == toy_config.total_env_steps


def test_a_seed_that_is_a_link_is_refused(tmp_path):
    other = tmp_path / "other" / "seed1"
    other.mkdir(parents=True)
    run = tmp_path / "run"
    (run / "seed0").mkdir(parents=True)
    (run / "seed1").symlink_to(other)
    for folder in (run / "seed0", other):
        (folder / "config.json").write_text("{}")
    before = content(tmp_path)
    with pytest.raises(UserError, match="seed1 is a link to"):
        lock_runs(run, [run / "seed0", run / "seed1"])
    assert content(tmp_path) == before


def test_a_copy_of_hard_links_is_refused(toy_config, finished_run, tmp_path):
    """`cp -al` gives two names to one eval.csv: a resumed run would cut both back."""
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "backup", copy_function=os.link)
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"eval\.csv has another name .*cp -a"):
        train(toy_config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert content(tmp_path) == before


def test_a_folder_that_becomes_a_link_while_the_run_goes_on_loses_nothing(tmp_path):
    """As when somebody makes room on a full disk."""
    mine = tmp_path / "mine"
    for name in ("5", "6.json", "0-2.npy", ".7.partial"):
        (mine / name).mkdir(parents=True)
    run = tmp_path / "run"
    run.mkdir()
    for name in ("checkpoints", "resume", "replay"):
        (run / name).symlink_to(mine)
    for act in (
        lambda: CheckpointStore(run / "checkpoints").keep([]),
        lambda: ReplayLog(run / "replay", 1).keep([]),
        lambda: ResumeStore(run).keep([]),
        lambda: ResumeStore(run).forget_after(-1),
        lambda: remove_partials(run / "replay"),
    ):
        with pytest.raises(OSError, match="is a link, expected a folder of the run"):
            act()
    assert len(list(mine.iterdir())) == 4


def test_hidden_neighbours_that_are_links_are_not_followed(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("kept")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.json.partial").symlink_to(mine / "file")
    write_durably(run / "config.json", b"{}")
    (run / ".5.partial").symlink_to(mine)
    CheckpointStore(run).save(5, {"w": np.ones(2)})
    log = ReplayLog(run, 10)
    (run / ".0-2.npy.partial").symlink_to(mine / "file")
    log.add(transitions(0))
    log.write()
    (run / ".6.partial").symlink_to(mine)
    remove_partials(run)
    (run / "link").symlink_to(mine)
    remove(run / "link")
    assert (mine / "file").read_text() == "kept"
    names = sorted(path.name for path in run.iterdir())
    assert names == ["0-2.npy", "5", "config.json"]


def test_a_deleted_folder_leaves_the_targets_of_links_inside(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("kept")
    CheckpointStore(tmp_path / "run").save(5, {"w": np.ones(2)})
    (tmp_path / "run" / "5" / "link").symlink_to(mine)
    CheckpointStore(tmp_path / "run").keep([])
    assert (mine / "file").read_text() == "kept"
    assert not (tmp_path / "run" / "5").exists()
