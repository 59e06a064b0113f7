"""Comparisons of toy runs as processes: killed, stopped, failing, skipped."""

import os
import shlex
import signal

import pytest

from dynvgd_jax.compare import records
from dynvgd_jax.compare import run as compare_run
from dynvgd_jax.compare.attempt import RunLock
from dynvgd_jax.compare.plan import make_plan
from dynvgd_jax.core.config_file import load_config
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.training.resume import is_finished
from tests.support import command, comparison
from tests.support.comparison import PROGRAM, newest_checkpoint, wait_for
from tests.support.same_run import assert_equal_runs
from tests.support.tiny_run import VECTOR_STEP

TABLE = {"base": {}, "vgd": {}}
FAILING = {"golden_ticket": {}, "base": {}}  # the first cannot begin


@pytest.fixture(scope="module")
def config(tmp_path_factory, toy_policy):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    changes = comparison.long_run()
    return comparison.write_config(path, toy_policy, TABLE, **changes)


@pytest.fixture
def own_program(monkeypatch):
    """Runs are started with the toy environments."""
    monkeypatch.setattr(compare_run, "program", lambda: PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(command.ROOT))
    monkeypatch.chdir(command.ROOT)


def start(config, folder):
    return command.start([f"--config={config}", f"--workdir={folder}"])


def remembered(lines, seen):
    """The lines, each added to `seen` as it comes."""
    for line in lines:
        seen.append(line)
        yield line


def tables(folder):
    return [(folder / f"comparison.{kind}").read_bytes() for kind in ("csv", "json")]


@pytest.mark.slow
def test_stopped_killed_and_killed_without_its_runs_it_ends_in_the_same_tables(
    config, tmp_path
):
    whole = start(config, tmp_path / "whole")
    folder = tmp_path / "disturbed"
    plan = make_plan(load_config(config), folder)
    first, second = plan.runs[1:]
    assert (first.label, second.label) == ("vgd seed 0", "vgd seed 1")
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    assert "base seed 0: starts" in errors
    assert "vgd seed 1: finished, success" in errors and "(3 of 3 runs)" in errors
    try:
        # SIGTERM: the run saves, nothing goes on
        process = start(config, folder)
        wait_for(lambda: newest_checkpoint(first.folder) >= 20 * VECTOR_STEP, process)
        process.terminate()
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "vgd seed 0: saves and ends" in errors and "same command" in output
        assert comparison.is_free(first) and not records.finished(first)
        reached = newest_checkpoint(first.folder)
        # SIGKILL of all
        process = start(config, folder)
        wait_for(lambda: newest_checkpoint(first.folder) > reached, process)
        process.kill()
        os.kill(RunLock(first).holder(), signal.SIGKILL)
        process.communicate()
        assert not records.finished(first)
        # SIGKILL of the comparison alone: its run goes on, and the next one waits
        process = start(config, folder)
        wait_for(lambda: newest_checkpoint(second.folder) >= 0, process)
        process.kill()
        process.communicate()
        orphan = RunLock(second).holder()
        assert orphan is not None
        os.kill(orphan, signal.SIGSTOP)  # so that it is still there
        process = start(config, folder)
        waits = f"vgd seed 1: process {orphan} of an earlier comparison still runs it"
        early = []
        assert any(waits in line for line in remembered(process.stderr, early))
        os.kill(orphan, signal.SIGCONT)
        process.communicate(timeout=300)
        assert process.returncode == 0
    finally:
        comparison.kill_holders(plan.runs)
    assert any("2 of 3 runs are finished already" in line for line in early)
    # the run went on by itself: nobody resumed it
    assert second.log.read_text().count("$ ") == 1
    assert first.log.read_text().count(" --resume\n") == 2
    assert tables(folder) == tables(tmp_path / "whole")
    for run in plan.runs:
        other = tmp_path / "whole" / run.folder.relative_to(folder)
        if run.name != "base":
            assert_equal_runs(run.folder, other)
        assert (run.folder / "eval.csv").read_bytes() == (
            other / "eval.csv"
        ).read_bytes()


@pytest.mark.slow
def test_a_failing_run_is_named_and_the_others_go_on(
    tmp_path, toy_policy, own_program, capfd
):
    config = comparison.write_config(tmp_path / "tiny.py", toy_policy, FAILING)
    config = load_config(config)
    config.compare.seeds = (0,)
    folder = tmp_path / "runs"
    compare_run.compare(config, folder, print_commands=True)
    printed = [shlex.split(line) for line in capfd.readouterr().out.splitlines()]
    assert not folder.exists()
    with pytest.raises(UserError, match="1 of 2 runs failed: golden_ticket seed 0"):
        compare_run.compare(config, folder)
    failing, working = make_plan(config, folder).runs
    output = capfd.readouterr()
    [line] = [line for line in output.err.splitlines() if ": failed (" in line]
    assert line.startswith("golden_ticket seed 0: failed (exit code 2): launch.py: ")
    assert "first_rollout_env_steps: found 80, expected 0" in line
    assert line.endswith(f"; log: {failing.log}")
    assert is_finished(working.folder)
    assert "0 of 1" in output.out and "base" in output.out  # the table
    # what was printed is what was run
    ran = [run.log.read_text().splitlines()[0] for run in (failing, working)]
    assert ran == [f"$ {shlex.join(words)}" for words in printed]
    # the finished run is not run again
    compare_run.compare(config, folder, print_commands=True)
    [line] = capfd.readouterr().out.splitlines()
    assert "--config.method=golden_ticket" in line
    held = RunLock(working)
    assert held.take()
    held.release()
    log = working.log.read_bytes()
    with pytest.raises(UserError, match="1 of 2 runs failed"):
        compare_run.compare(config, folder)
    assert working.log.read_bytes() == log
    assert "1 of 2 runs are finished already" in capfd.readouterr().err
    # a larger budget is another comparison
    config.total_env_steps *= 2
    with pytest.raises(UserError, match=r"another comparison: config\.total_env"):
        compare_run.compare(config, folder)
