"""Commands of README and docs: found, marked, their flags exist; how they are run."""

import re
import time
from pathlib import Path

import pytest

from docs import commands, run_commands
from tests.support.command import ROOT

PAGES = commands.pages()


def read(page):
    return (ROOT / page).read_text()


BLOCKS = """# Page

<!-- run: 20 s; serves, needs runs/; 2 min, needs GPU, without runs/x -->
```bash
# a comment alone is no command
python a.py --b \\
    --c   # why
tensorboard --logdir=runs
for i in 1 2; do
  echo $i
done
```

In words `python -m b --flag` and `python`; `other --flag`.

    python indented.py

<!-- run: 3 h -->

    key = value
    folder/

- in a list

  <!-- run: 1 min -->
  ```sh
  pip install x
  ```

```python
import python
```
"""


def test_the_commands_of_a_page_are_found_with_their_marks(tmp_path):
    first, second, third = commands.blocks(BLOCKS)
    assert [b.line for b in (first, second, third)] == [5, 16, 27]
    assert second == commands.Block(16, "python indented.py\n", None)
    assert (third.text, third.mark) == ("pip install x\n", "1 min")
    assert commands.inline(BLOCKS) == ["python -m b --flag"]

    (tmp_path / "page.md").write_text(BLOCKS)
    with pytest.raises(ValueError, match=r"page.md:16: no comment <!-- run"):
        commands.commands("page.md", tmp_path)
    (tmp_path / "page.md").write_text(BLOCKS.replace("    python ind", "python ind"))
    found = commands.commands("page.md", tmp_path)
    mark = commands.Mark
    assert found == [
        ("page.md", 6, "python a.py --b \\\n    --c   # why", mark(20, False, (), ())),
        ("page.md", 8, "tensorboard --logdir=runs", mark(0, True, ("runs/",), ())),
        (
            "page.md",
            9,
            "for i in 1 2; do\n  echo $i\ndone",
            mark(120, False, ("GPU",), ("runs/x",)),
        ),
        ("page.md", 27, "pip install x", mark(60, False, (), ())),
    ]


@pytest.mark.parametrize(
    "mark, message",
    [
        ("20", "expected a time such as '20 s', or 'serves'"),
        ("20 s, needs TPU", "'TPU': expected a path or one of GPU, cluster, root"),
        ("20 s, without GPU", "'GPU': expected a path"),
        ("20 s, GPU", "expected 'needs' or 'without' and a name"),
    ],
)
def test_marks_that_say_nothing_are_named(mark, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        commands.read_mark(mark)


def test_as_many_marks_as_commands(tmp_path):
    text = "<!-- run: 1 s; 2 s -->\n```bash\necho 1\necho 2\necho 3\n```\n"
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=r"page.md:3: 2 marks for 3 commands"):
        commands.commands("page.md", tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_commands_is_marked(page):
    assert len(commands.commands(page)) >= len(commands.blocks(read(page)))
    languages = re.findall(r"^\s*```(\w+)$", read(page), re.MULTILINE)
    assert set(languages) <= {"bash", "python", "yaml", "json", "text", "toml"}


def program_texts(text):
    """The sources that read the flags of a command, or what is missing."""
    module = re.search(r"python[\d.]* -m ([\w.]+)", text)
    script = re.search(r"python[\d.]* ([\w/]+\.py)", text)
    if module and module[1].split(".")[0] in ("pip", "pytest", "sphinx", "venv"):
        return None
    if module:
        path = ROOT / module[1].replace(".", "/")
        found = [
            p for p in (path / "command.py", path.with_suffix(".py")) if p.is_file()
        ]
    elif script:
        found = [ROOT / script[1]]
    else:
        return None
    assert found, text
    other = {"launch.py": "launch.py", "convert_torch_ckpt.py": "convert.py"}
    if name := other.get(found[0].name):
        found = [ROOT / "dynvgd_jax" / name]
    if found[0].parent.name == "benchmarks":
        found += (ROOT / "benchmarks").glob("*setup.py")
    return "\n".join(path.read_text() for path in found)


def wrong_flags(text):
    """Flags of a command that its program does not know, and fields that no run has."""
    from dynvgd_jax.core.config_file import load_config
    from dynvgd_jax.core.fields import check_field_name

    sources, wrong = program_texts(text), []
    if sources is None:
        return wrong
    configs = [c for c in re.findall(r"--config=(\S+)", text) if c != "..."]
    config = load_config((configs or ["configs/can_ddim8.py"])[0])
    for flag in re.findall(r"(?<=\s)--([\w.]+)", text):
        if flag.startswith("config."):
            name = flag.removeprefix("config.")
            # a comparison takes the fields of its runs too
            if name.startswith("compare.") or "compare" not in config:
                check_field_name(config, name)
        elif flag not in ("config", "version") and not re.search(
            rf"[\"'](--)?{flag}\b", sources
        ):
            wrong.append(flag)
    return wrong


def test_flags_and_fields_that_do_not_exist_are_noticed():
    from dynvgd_jax.core.errors import UserError

    assert wrong_flags("python -m dynvgd_jax.evaluate RUN --videos=1 --vide=2") == [
        "vide"
    ]
    assert wrong_flags("python -m benchmarks.learner --sizes=small --size=1") == [
        "size"
    ]
    with pytest.raises(UserError, match=r"config.guidance.scal: no such field"):
        wrong_flags("python launch.py --config.guidance.scal=1")
    with pytest.raises(AssertionError):
        wrong_flags("python -m dynvgd_jax.evaluat RUN")


@pytest.mark.parametrize("page", PAGES)
def test_programs_flags_and_fields_of_every_command_exist(page):
    texts = [command.text for command in commands.commands(page)]
    for text in texts + commands.inline(read(page)):
        assert wrong_flags(text) == [], text


RUN_PAGE = """# Page

<!-- run: 1 s -->
```bash
echo made > made.txt            # a comment
python -c "import sys; sys.exit('it broke')"
test -f made.txt
echo made > made.txt
```

<!-- run: serves; 1 s, needs made.txt; 1 s, needs no.txt; 1 s, without made.txt;
     3 min; 1 s, needs GPU -->
```bash
sleep 60
cat made.txt
cat no.txt
rm made.txt
sleep 180
nvidia-smi
```
"""


def test_commands_are_run_in_order_and_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_commands, "SERVES_S", 0.2)
    (tmp_path / "README.md").write_text(RUN_PAGE)
    assert run_commands.main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    rows = re.findall(
        r"^(ok|failed|left out) +(-|\d+) +[\d.]+  README.md:(\d+) +(.*)$",
        printed,
        re.MULTILINE,
    )
    assert rows == [
        ("ok", "0", "5", "echo made > made.txt # a comment"),
        ("failed", "1", "6", "python -c \"import sys; sys.exit('it broke')\""),
        ("ok", "0", "7", "test -f made.txt"),
        ("left out", "-", "8", "echo made > made.txt  [as README.md:5]"),
        ("ok", "-", "14", "sleep 60"),
        ("ok", "0", "15", "cat made.txt"),
        ("left out", "-", "16", "cat no.txt  [needs no.txt]"),
        ("left out", "-", "17", "rm made.txt  [made.txt is there already]"),
        ("left out", "-", "18", "sleep 180  [takes 3 min]"),
        (
            "left out",
            "-",
            "19",
            "nvidia-smi  [needs an NVIDIA GPU: --have GPU]",
        ),
    ]
    assert "    | it broke\n" in printed
    assert printed.endswith("4 ok, 1 failed, 5 left out\n")


def test_a_page_that_does_not_exist_is_named(tmp_path, capsys):
    (tmp_path / "README.md").write_text(RUN_PAGE)
    with pytest.raises(SystemExit):
        run_commands.main([str(tmp_path), "--pages", "nope.md"])
    assert "found no page nope.md, expected such as" in capsys.readouterr().err


def test_a_command_that_takes_too_long_is_ended_with_what_it_started(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(run_commands, "MARGIN_S", 0.5)
    mark = commands.Mark(0, False, (), ())
    text = "sleep 60 & echo $! > pid; wait"
    result = run_commands.run_one(commands.Command("a.md", 1, text, mark), tmp_path)
    assert (result.outcome, result.exit_code) == ("failed", None)
    assert result.note == "stopped after 0 s"
    status = Path("/proc") / (tmp_path / "pid").read_text().strip() / "status"
    for _ in range(100):  # the kernel takes its time
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    raise AssertionError("what it started goes on")
