"""Hostile command lines and files: success, or one clear line and exit code 2.

The jobs are replaced by the parts that read what the user gave: whatever checks the
configuration, reads files and builds the method. Everything is drawn from fixed seeds.
"""

import contextlib
import io
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from dynvgd_jax import launch
from dynvgd_jax.compare.plan import make_plan
from dynvgd_jax.core.config_file import load_config
from dynvgd_jax.core.fields import check_fields, field_names, get_field
from dynvgd_jax.demos import gym_demos, ppo
from dynvgd_jax.demos.dataset import load_dataset
from dynvgd_jax.demos.files import DemoEpisode, write_dppo
from dynvgd_jax.diffusion.policy_files import ASSETS, load_policy, policy_source
from dynvgd_jax.steering.methods import build_method, state_shapes
from dynvgd_jax.training.pretrain import check_config
from dynvgd_jax.training.resume import find_saved
from tests.support.command import BASE, ROOT

pytestmark = pytest.mark.slow

OVERRIDES, FILES = 1000, 500
BUILT_EVERY = 5  # tracing a method takes a second

HOSTILE = (
    *(
        "2147483648",
        "9" * 40,
        "-9" * 30,
        "1e400",
        "nan",
        "inf",
        "-inf",
        "0x10",
        "1_000",
    ),
    *(
        "",
        " ",
        "true",
        "None",
        "[]",
        "()",
        "(1,",
        "{}",
        "{'a': 1}",
        "..",
        "/",
        "é" * 300,
    ),
    *("/dev/null", "/proc/self/mem", "a\nb", "\x1b[31m", "\udcff", "%s%n", "$(id)"),
    *("~", "~/a", "~no_such_user/a", "./~", "1e6", "1.5e3", "1e22", "20k", "1,000"),
    *(",", "a,", "((", "(" * 3000, "'a", "1 2", "(1, (2,))", "1e5,x", "None,None"),
    *("__import__('os')", "!!python/object:os.system", "../" * 40, "x" * 5000),
)
# For each type of field: values that may or may not make sense together.
PLAUSIBLE = {
    int: ("0", "1", "-1", "2", "3", "7", "8", "20", "21", "100", "4096", "2147483647")
    + ("1e6", "2.0", "64_000", "1e2"),
    float: ("0", "1", "-1", "0.5", "1e-30", "1e308", "100", "-0.5"),
    str: ("lift", "can", "square", "transport", "base", "vgd", "dynvgd", "off", "mean")
    + ("cosine", "exact", "randn", "tanh_randn", "builtin", "pretrain", "demos"),
    tuple: ("('randn',)", "('randn', 'tanh_randn')", "()", "(1, 2, 3)", "(512,) * 3")
    + ("randn,tanh_randn", "randn tanh_randn", "[tanh_randn]", "1,8", "512,512,512"),
    bool: ("True", "False", "true", "0"),
}
VALUES = tuple(v for values in PLAUSIBLE.values() for v in values) + HOSTILE


def call(arguments) -> str:
    """Runs launch.py in this process; returns its line, nothing where it succeeds."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = launch.main(["launch.py", *arguments])
    line = errors.getvalue()
    assert code in (0, 2), (code, arguments)
    if code == 2:
        assert output.getvalue() == ""
        assert line.startswith("launch.py: ") and len(line) > 30, line
        assert line.count("\n") == 1 and line.endswith("\n"), line
        return line
    return ""


def build(config) -> None:
    """Builds the method as a run does, without computing anything."""
    state_shapes(build_method(config, load_policy(policy_source(config))))


@pytest.fixture
def readers(monkeypatch, tmp_path):
    """Replaces the jobs by what reads their input; returns how often each ran."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    jobs = ("train", "built", "resume", "pretrain", "demos", "compare", "agent")
    ran = dict.fromkeys(jobs, 0)

    def run_job(command):
        config, workdir = command.config, command.workdir
        kind = "resume" if command.resume else config.job
        ran[kind] += 1
        if kind == "resume":
            find_saved([workdir], [config])
        elif kind == "pretrain":
            check_config(config)
            if Path(config.dataset).suffix == ".npz":
                load_dataset(config.dataset, config.task)
        elif kind == "compare":
            make_plan(config, workdir)
        elif kind == "agent":
            ppo.check_agent_config(config)
        elif kind == "demos" and "agents" in config:
            check_fields(config, gym_demos.FIELDS)
        elif kind == "train" and (ran["train"] % BUILT_EVERY == 0 or ran["files"]):
            ran["built"] += 1
            build(config)

    ran["files"] = 0
    monkeypatch.setattr(launch, "run_job", run_job)
    return ran


def mutate_word(rng: random.Random, word: str) -> str:
    place = rng.randrange(len(word) + 1)
    letter = rng.choice(["", ".", "_", "=", "-", "é", " ", "x", word[:place]])
    return word[:place] + letter + word[place + rng.randrange(2) :]


def draw_value(rng: random.Random, field) -> str:
    """Returns a value that the field's type may allow, more often than not."""
    plausible = PLAUSIBLE.get(type(field), HOSTILE)
    return rng.choice(plausible if rng.random() < 0.6 else VALUES)


def draw_overrides(rng: random.Random, fields: dict[str, dict]) -> list[str]:
    """Returns a configuration file with up to three overrides and other flags."""
    file = rng.choice(sorted(fields))
    known = ":builtin" if "pretrain" in file else ":quick"
    preset = rng.choice(["", "", known, known, known, ":quik", ":"])
    arguments = [f"--config={file}{preset}"]
    for _ in range(rng.choice([1, 1, 2, 3])):
        name = rng.choice(sorted(fields[file]))
        value = draw_value(rng, fields[file][name])
        if rng.random() < 0.1:
            name = mutate_word(rng, name)
        flag = f"--config.{name}"
        form = rng.random()
        if form < 0.8:
            arguments.append(f"{flag}={value}")
        elif form < 0.9:
            arguments += [flag, value]
        else:
            arguments.append(rng.choice([flag, f"-{flag}", f"--no{flag[2:]}", value]))
    if rng.random() < 0.1:
        arguments.append(rng.choice(["--resume", "--resume=maybe", "--wrkdir=a", "--"]))
    if rng.random() < 0.1:
        arguments.append(f"--workdir={rng.choice(VALUES)}")
    if rng.random() < 0.1:
        rng.shuffle(arguments)  # flags in any order; spaced values lose their flag
    if rng.random() < 0.05:
        arguments[0] = rng.choice(
            [
                "--config=~/a.py",
                "--config=configs",
                "--config=configs/no.py",
                "--config",
            ]
        )
    return arguments


def test_thousand_mutated_overrides(readers):
    rng = random.Random(6)
    fields = {}
    for path in sorted((ROOT / "configs").glob("*_*.py")):
        config = load_config(str(path))
        names = field_names(config)
        fields[str(path)] = {name: get_field(config, name) for name in names}
    lines = [call(draw_overrides(rng, fields)) for _ in range(OVERRIDES)]
    accepted = lines.count("")
    assert 0.1 * OVERRIDES < accepted < 0.7 * OVERRIDES, accepted
    assert readers["built"] >= 10 and readers["pretrain"] >= 10 and readers["demos"]
    assert readers["compare"] >= 10 and readers["agent"]
    assert not list(Path.cwd().iterdir())  # nothing was written anywhere


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Returns `content` with a truncation, flips, a hole, a repetition or a tail."""
    if not content:
        return b"\x00"
    place = rng.randrange(len(content))
    stop = min(len(content), place + rng.choice([1, 4, 64, 4096]))
    match rng.randrange(6):
        case 0:
            return content[:place]
        case 1:
            bits = bytearray(content)
            for _ in range(rng.choice([1, 2, 16])):
                bits[rng.randrange(len(bits))] ^= 1 << rng.randrange(8)
            return bytes(bits)
        case 2:
            return content[:place] + bytes(stop - place) + content[stop:]
        case 3:
            return content[:place] + b"\xff" * (stop - place) + content[stop:]
        case 4:
            return content[:stop] + content[place:]
        case _:
            return content + rng.randbytes(stop - place)


JSON_VALUES = (
    *(None, True, 0, -1, 1, 2**31, 10**12, 10**300, 1.5, -0.0, float("nan")),
    *(float("inf"), "", "x", "../../etc", "\x00", [], {}, [[]], [10**9], {"a": []}),
)


def mutate_json(rng: random.Random, content: bytes) -> bytes:
    """Replaces, deletes or adds a value somewhere, keeping it JSON."""
    root = json.loads(content)
    places = []

    def visit(node):
        keys = node if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                visit(node[key])

    visit(root)
    for _ in range(rng.choice([1, 1, 2])):
        node, key = rng.choice(places)
        match rng.randrange(5):
            case 0 if isinstance(node, dict):
                node.pop(key, None)
            case 1 if isinstance(node, dict):
                node[f"{key}x"] = rng.choice(JSON_VALUES)
            case 2:
                nested = rng.choice(JSON_VALUES)
                for _ in range(rng.choice([1, 3, 60])):
                    nested = [nested]
                node[key] = nested
            case _:
                node[key] = rng.choice(JSON_VALUES)
    text = json.dumps(root)
    if rng.random() < 0.05:
        text = "[" * 100_000 + text
    return text.encode()


def demonstrations() -> list[DemoEpisode]:
    rng = np.random.default_rng(0)
    return [
        DemoEpisode(
            obs=rng.normal(size=(n, 23)).astype(np.float32),
            actions=rng.uniform(-1, 1, (n, 7)).astype(np.float32),
            rewards=np.zeros(n, np.float32),
            last_obs=rng.normal(size=23).astype(np.float32),
            operator="good",
            seed=n,
            success=True,
            states=None,
        )
        for n in (8, 5)
    ]


@pytest.fixture
def inputs(tmp_path_factory, finished_run, toy_config):
    """(file to damage, arguments that read it), several of each kind."""
    from tests.support.command import flags

    place = tmp_path_factory.mktemp("inputs")
    policy = shutil.copytree(ASSETS / "can", place / "policy")
    run = shutil.copytree(finished_run, place / "run")
    episodes = demonstrations()
    write_dppo(place, episodes)
    train = [f"{BASE}:quick", f"--config.base_policy={policy}"]
    pretrain = [f"--config={ROOT}/configs/can_pretrain.py"]
    dppo = [*pretrain, f"--config.dataset={place / 'train.npz'}"]
    resume = [BASE, *flags(toy_config), f"--workdir={run}", "--resume"]
    notes = max((run / "resume").glob("*.json"))
    manifest = next((run / "checkpoints").glob("*/manifest.json"))
    return [
        (policy / "policy.json", train),
        (policy / "normalization.npz", train),
        (policy / "weights" / "manifest.json", train),
        (next((policy / "weights" / "arrays").rglob("_METADATA")), train),
        (place / "train.npz", dppo),
        (place / "normalization.npz", dppo),
        (run / "config.json", resume),
        (run / "versions.json", resume),
        (notes, resume),
        (manifest, resume),
    ]


def test_five_hundred_mutated_files(readers, inputs):
    readers["files"] = 1
    rng = random.Random(7)
    refused = dict.fromkeys([path for path, _ in inputs], 0)
    for path, arguments in inputs:
        assert call(arguments) == "", path  # undamaged
    for number in range(FILES):
        path, arguments = inputs[number % len(inputs)]
        content = path.read_bytes()
        is_json = path.suffix == ".json" and rng.random() < 0.7
        bad = (mutate_json if is_json else mutate_bytes)(rng, content)
        path.write_bytes(bad)
        try:
            refused[path] += bool(call(arguments))
        except BaseException:
            os.write(2, f"\n{path}: {bad[:2000]!r}\n".encode())
            raise
        path.write_bytes(content)
    # a damaged checkpoint falls back to the one before, with a warning
    falls_back = {inputs[i][0] for i in (-1, -2, -3)}
    for path, count in refused.items():
        assert path in falls_back or count > 10, (path, count)
