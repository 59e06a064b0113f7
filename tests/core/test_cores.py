"""As many threads as the process may use cores."""

import os
import subprocess
import sys

import pytest

from dynvgd_jax.core.cores import usable_cores


@pytest.fixture
def quota(tmp_path, monkeypatch):
    """Returns the cores where control groups hold these files; 8 may be run on."""
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda pid: set(range(8)), raising=False
    )

    def cores(own, files):
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "own").write_text(own)
        return usable_cores(tmp_path / "cgroup", tmp_path / "own")

    return cores


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),  # 2.5 cores keep 3 busy
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000\n"}, 8),
        # the tightest of the group and those above it
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "1000 1000", "a/cpu.max": "300000 100000"}, 1),
        # a container sees its own group as the root, named by a path from outside
        ("0::/docker/4f\n", {"cpu.max": "400000 100000"}, 4),
        # version 1
        (
            "4:memory:/\n3:cpu,cpuacct:/job\n",
            {
                "cpu/job/cpu.cfs_quota_us": "500000",
                "cpu/job/cpu.cfs_period_us": "100000",
            },
            5,
        ),
        (
            "3:cpu,cpuacct:/docker/4f\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        ("4:cpuset:/job\n", {"cpu/job/cpu.cfs_quota_us": "1"}, 8),
    ],
)
def test_control_groups_limit_the_cores(quota, own, files, expected):
    assert quota(own, files) == expected


def test_without_control_groups_the_affinity_counts(tmp_path):
    assert usable_cores(tmp_path, tmp_path / "none") == len(os.sched_getaffinity(0))


def test_environments_take_a_thread_per_allowed_core():
    code = (
        "import os\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv\n"
        "env = RobosuiteVectorEnv('lift', 1, None)\n"
        "assert env.num_threads == 1, env.num_threads\n"
        "env.close()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_else_counts_the_machines_cores():
    from tests.support.command import ROOT

    code = [*(ROOT / "dynvgd_jax").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    counting = [path.name for path in code if "cpu_count" in path.read_text()]
    assert counting == ["cores.py"]
