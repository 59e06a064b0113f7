"""Runs as submitit's jobs, with its executor for this machine in place of a cluster."""

import signal
import sys

import pytest

from dynvgd_jax.compare import attempt, records
from dynvgd_jax.compare.attempt import RunLock
from dynvgd_jax.compare.cluster import ClusterExecutor, RunJob
from dynvgd_jax.compare.plan import Run, make_plan
from dynvgd_jax.compare.run import Overview, run_all
from dynvgd_jax.core.config_file import load_config
from dynvgd_jax.core.errors import UserError
from tests.support import command, comparison
from tests.support.comparison import PROGRAM, newest_checkpoint, wait_for
from tests.support.tiny_run import VECTOR_STEP

TABLE = {"vgd": {}}


@pytest.fixture
def config(tmp_path, toy_policy, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(command.ROOT))
    monkeypatch.chdir(command.ROOT)
    changes = comparison.long_run()
    text = comparison.write_config(tmp_path / "tiny.py", toy_policy, TABLE, **changes)
    found = load_config(text)
    found.compare.seeds = (0,)
    return found


@pytest.mark.slow
def test_jobs_save_when_their_time_is_over_and_go_on(config, tmp_path):
    plan = make_plan(config, tmp_path / "runs")
    plan.workdir.mkdir()
    (run,) = plan.runs
    # as submitit does before a job's time is over
    lock = RunLock(run)
    assert lock.take()
    process = attempt.start(run, PROGRAM, lock)
    try:
        wait_for(lambda: newest_checkpoint(run.folder) >= 20 * VECTOR_STEP)
        again = RunJob(run, PROGRAM).checkpoint()
        # only now that it has saved and ended
        assert comparison.is_free(run) and process.wait(timeout=5) == 0
        assert again.function._run.flags == run.flags and not records.finished(run)
        # then all is submitted, a finished run as little as ever
        executor = ClusterExecutor(
            plan.workdir, PROGRAM, config.compare.slurm, cluster="local"
        )
        assert executor.cores == 4
        with Overview(plan) as overview:
            failed, stopped = run_all(plan, executor, lambda: False, overview)
    finally:
        comparison.kill_holders(plan.runs)
    assert failed == [] and not stopped
    assert all(map(records.finished, plan.runs))
    log = run.log.read_text()
    assert log.count("$ ") == 2 and "--resume" in log and "resumed at" in log
    # a job that was submitted twice finds nothing left to do
    RunJob(run, PROGRAM)()
    assert run.log.read_text() == log


@pytest.fixture
def signals():
    """A job takes over what ends it."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_job_of_a_failed_run_fails_unless_it_was_asked_to_stop(tmp_path, signals):
    run = Run("vgd", 3, tmp_path / "vgd/seed_3", (), None, "", {})
    failing = (sys.executable, "-c", "print('no memory'); raise SystemExit(3)")
    words = rf"vgd seed 3: failed \(exit code 3\): no memory; log: {run.log}"
    with pytest.raises(UserError, match=words):
        RunJob(run, failing)()
    # the cluster ends the job, which lets its run save and end
    stopped = (
        "import os, signal, time; time.sleep(1); "
        "os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    )
    RunJob(run, (sys.executable, "-c", stopped))()
    assert comparison.is_free(run)
