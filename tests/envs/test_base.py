"""The table of simulators: lazy, by task, with errors that help."""

import subprocess
import sys
import types

import pytest
from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs import base
from dynvgd_jax.envs.robosuite.tasks import find_task, get_task


def test_tasks_are_known_without_a_simulator_or_jax():
    code = (
        "import sys\n"
        "from dynvgd_jax.envs import base, rollout\n"
        "assert base.task_names()[:4] == ('lift', 'can', 'square', 'transport')\n"
        "assert base.task_names()[4:] == ('hopper', 'walker2d', 'halfcheetah')\n"
        "assert base.task_sizes('hopper') == (11, 3, 4, 1000)\n"
        "heavy = {'mujoco', 'robosuite', 'gymnasium', 'numba', 'jax'}\n"
        "assert not heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_task_chooses_the_simulator(monkeypatch):
    """A new simulator is a module and a line in the table."""
    module = types.ModuleType("elsewhere")
    module.task_names = lambda: ("push", "pull")
    module.make_env = lambda *arguments: arguments
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    monkeypatch.setitem(base.SIMULATORS, "toy", "elsewhere")
    assert base.task_names()[-2:] == ("push", "pull")
    config = ConfigDict({"task": "pull"})
    assert base.make_env(config, None, 3) == (config, None, 3)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match=r"'sqare'.*did you mean 'square'"):
        base.make_env(ConfigDict({"task": "sqare"}), None, 1)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes modules outside the package; each has a name of its own."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, *lines):
        (tmp_path / f"{name}.py").write_text("\n".join(lines))
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


SIMULATOR = (
    "def task_names(): return ('push', 'pull')",
    "def make_env(config, normalization, num_envs): return config.task, num_envs",
)


def test_a_task_may_lie_in_a_module_of_ones_own(own):
    own("own_sim_whole", "FIELDS = {}", *SIMULATOR)
    config = ConfigDict({"task": "own_sim_whole:pull", "env": {}})
    assert base.make_env(config, None, 3) == ("own_sim_whole:pull", 3)
    base.field_rules()["task"]("task", config.task)
    assert find_task(config.task) is None and "pull" not in base.task_names()
    assert not base.can_draw(config) and base.can_draw(ConfigDict({"task": "can"}))
    with pytest.raises(UserError, match=r"no make_camera in own_sim_whole.*leave"):
        base.make_camera(config, None, 64)


def test_what_a_simulator_calls_tasks_is_its_own_affair(own):
    own("own_sim_words", "FIELDS, TASKS = {}, ('push',)", *SIMULATOR)
    assert find_task("own_sim_words:push") is None
    own("own_sim_others", "FIELDS, TASKS = {}, {'push': 3}", *SIMULATOR)
    assert find_task("own_sim_others:push") is None


def test_gymnasiums_own_way_to_name_a_module_is_gymnasiums(monkeypatch):
    assert base.own_simulator("gym:my_envs:Foo-v0") is None
    base.field_rules()["task"]("task", "gym:my_envs:Foo-v0")


def test_what_cannot_be_saved_is_refused_before_it_is_played():
    env = types.SimpleNamespace(get_state=lambda: {})
    with pytest.raises(UserError, match=r"have no set_state, which checkpoints"):
        base.require_saving(env)
    env.set_state = lambda state: None
    base.require_saving(env)


def test_fields_of_an_own_simulator_are_checked_when_it_is_made(own):
    own(
        "own_sim_wind",
        "from dynvgd_jax.core.fields import number",
        "FIELDS = {'env.wind': number(0, 3)}",
        *SIMULATOR,
    )
    config = ConfigDict({"task": "own_sim_wind:pull", "env": {"wind": 2.0}})
    base.make_env(config, None, 1)
    config.env.wind = 4.0
    with pytest.raises(UserError, match=r"config\.env\.wind: found 4\.0.*from 0 to 3"):
        base.make_env(config, None, 1)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("own_sim_good:pull it", "found 'pull it', expected one of push, pull"),
        ("own_sim_good:pul", "did you mean 'pull'"),
        ("own_sim_none:pull", "cannot import the module of 'own_sim_none:pull'.*-m"),
        ("../own:pull", r"found '\.\./own:pull', expected a task, or MODULE:NAME"),
        (":pull", "expected a task, or MODULE:NAME"),
        ("own_sim_half:pull", "own_sim_half has no make_env, FIELDS, expected"),
        ("own_sim_data:pull", "own_sim_data has no task_names, FIELDS, expected"),
        ("own_sim_broken:pull", "module own_sim_broken fails: NameError: name 'oops'"),
        ("own_sim_file:pull", "module own_sim_file fails: FileNotFoundError"),
        ("own_sim_exit:pull", "module own_sim_exit fails: SystemExit"),
        ("pull", r"unknown task 'pull'.*one of your own is MODULE:NAME"),
    ],
)
def test_what_is_wrong_with_an_own_module_is_one_line(own, task, words):
    own("own_sim_good", "FIELDS = {}", *SIMULATOR)
    own("own_sim_half", SIMULATOR[0])
    own("own_sim_data", "FIELDS, task_names = None, ('pull',)", SIMULATOR[1])
    own("own_sim_broken", "oops")
    own("own_sim_file", "open('no such scene.xml')")
    own("own_sim_exit", "raise SystemExit(0)")
    with pytest.raises(UserError, match=words) as caught:
        base.make_env(ConfigDict({"task": task, "env": {}}), None, 1)
    assert "\n" not in str(caught.value)


def test_an_own_robosuite_task_without_parts_is_for_robosuites_engine(own):
    own(
        "own_lift",
        "from dynvgd_jax.envs.robosuite import FIELDS, make_env",
        "from dynvgd_jax.envs.robosuite.tasks.lift import TASK",
        "TASKS = {'lift': TASK._replace(parts=None)}",
        "def task_names(): return tuple(TASKS)",
    )
    fields = {"task": "own_lift:lift", "env": {"engine": "exact", "num_threads": 1}}
    with pytest.raises(UserError, match=r"has no parts.*use env\.engine=robosuite"):
        base.make_env(ConfigDict(fields), None, 1)
    fields["env"]["engine"] = "robosuite"
    env = base.make_env(ConfigDict(fields), None, 1)
    assert env.sizes == (19, 7, 4, 300) and env.engine == "robosuite"
    env.close()
    with pytest.raises(UserError, match="found 'can', expected one of lift"):
        get_task("own_lift:can")


@pytest.mark.parametrize(("engine", "threads"), [("compiled", 3), ("robosuite", 1)])
def test_robosuites_environments_come_as_the_configuration_says(engine, threads):
    fields = {"engine": engine, "num_threads": 3}  # robosuite's own has one
    env = base.make_env(ConfigDict({"task": "lift", "env": fields}), None, 1)
    try:
        assert (env.task.name, env.engine, env.num_threads) == ("lift", engine, threads)
        assert env.num_envs == 1 and env.sizes == (19, 7, 4, 300)
    finally:
        env.close()
