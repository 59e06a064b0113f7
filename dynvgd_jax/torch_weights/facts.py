"""What a policy's tensors cannot tell, and who says it; nothing is guessed unsaid."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.scores import REFERENCES
from dynvgd_jax.diffusion.kinds import FIRST_KIND
from dynvgd_jax.diffusion.network import ACTIVATIONS
from dynvgd_jax.envs.base import task_names
from dynvgd_jax.torch_weights.dppo_config import FLOW, DppoConfig

# Under this key our own .pt files carry them.
CARRIED = "dynvgd_jax"
MAX_TIMESTEPS = 10_000
# Kinds whose network is DPPO's; its tensors look the same in both.
POLICY_KINDS = (FIRST_KIND, FLOW)
# Fact -> what stands for it in the names of DPPO's folders: `..._ta4_td20_tdf10`.
_IN_PATH = {"num_train_timesteps": "td", "ft_denoising_steps": "tdf"}


class Fact(NamedTuple):
    """A value and who says it."""

    value: Any
    source: str

    def __str__(self) -> str:
        return f"{self.value} ({self.source})"


class Facts(NamedTuple):
    """Everything about a policy that is not in its tensors."""

    task: Fact
    num_train_timesteps: Fact | None  # T; a flow has none
    activation: Fact  # of the trunk
    ft_denoising_steps: Fact | None  # of fine-tuned files only
    notes: list[str]  # contradictions that were decided, one line each
    policy_kind: Fact  # diffusion or flow

    def line(self) -> str:
        """One line that says all of them."""
        steps = self.num_train_timesteps
        text = f"task {self.task}, "
        text += f"{self.policy_kind}" if steps is None else f"T = {steps}"
        text += f", activation {self.activation}"
        if self.ft_denoising_steps is not None:
            text += f", fine-tuned for the last steps: {self.ft_denoising_steps}"
        return text


def gather(
    source: Path,
    carried: Mapping[str, Any],
    said: DppoConfig | None,
    flags: Mapping[str, Any],
    *,
    is_fine_tuned: bool,
) -> Facts:
    """Returns the facts of a checkpoint, from flags, file, YAML, and the file's path.

    Args:
      source: the checkpoint, whose path is looked at.
      carried: what the file itself says.
      said: DPPO's YAML, where one was given.
      flags: name -> value or None, as `Facts` names them.
      is_fine_tuned: the file has two networks.

    Raises:
      UserError: nobody says the task, T or, of a fine-tuned file, its steps; or two
        of them say different things.
    """
    notes: list[str] = []
    if "num_train_timesteps" in carried:
        carried = {"policy_kind": FIRST_KIND, **carried}

    def fact(name: str) -> Fact | None:
        chosen = _choose(name, flags.get(name), said, carried.get(name))
        return _with_path(name, chosen, flags.get(name), source, notes)

    task = fact("task")
    if task is None:
        where = "" if said is None else f" and none in {said.path}"
        raise UserError(
            f"found no --task{where}, expected one of {', '.join(task_names())}, or "
            "MODULE:NAME; the checkpoint does not tell"
        )
    named = _tasks_in(source)
    if named and task.value not in named:
        notes.append(
            f"the path of {source.name} names {' and '.join(named)}, but the task is "
            f"{task}; Can's and Square's sizes are equal, so that nothing else tells"
        )
    kind = _kind(fact("policy_kind"), source, notes)
    usual = "relu" if task.value in REFERENCES else "mish"
    activation = fact("activation") or Fact(usual, "DPPO's default, nobody says")
    if kind.value == FLOW:
        _require_flow(source, kind, flags, is_fine_tuned)
        return Facts(task, None, activation, None, notes, kind)
    steps = fact("num_train_timesteps")
    if steps is None:
        raise UserError(
            f"{source}: T is not said, the number of training timesteps, which tensors "
            "do not tell; give --num_train_timesteps (denoising_steps in the YAML of "
            "its training) or --dppo_config=YAML, or of a flow policy "
            f"--policy_kind={FLOW}. A wrong one ruins the policy, and published Square "
            "policies exist with 20 and with 100"
        )
    ft_steps = None
    if is_fine_tuned:
        ft_steps = fact("ft_denoising_steps")
        if ft_steps is None or not 1 <= ft_steps.value <= steps.value:
            found = None if ft_steps is None else ft_steps.value
            raise UserError(
                f"{source} is fine-tuned: found --ft_denoising_steps={found}, expected "
                f"1 to {steps.value}, the value of its training"
            )
    elif flags.get("ft_denoising_steps") is not None:
        # What a YAML says of a fine-tuning that is yet to come does not matter.
        raise UserError(f"{source} is not fine-tuned; drop --ft_denoising_steps")
    return Facts(task, steps, activation, ft_steps, notes, kind)


def _kind(said: Fact | None, source: Path, notes: list[str]) -> Fact:
    """The kind of policy; ReinFlow's folders are called `..._pre_reflow_mlp_...`."""
    named = ({"reflow", "diffusion"} & set(words) for words in _words(source))
    in_path = next(filter(None, named), set()) == {"reflow"}  # what the nearest says
    if said is None and in_path:
        return Fact(FLOW, "reflow in its path")
    if said is not None and in_path and said.value != FLOW:
        notes.append(f"the path of {source.name} names reflow, but the kind is {said}")
    return said or Fact(FIRST_KIND, "DPPO's, nobody says")


def _require_flow(
    source: Path, kind: Fact, flags: Mapping[str, Any], is_fine_tuned: bool
) -> None:
    """Raises UserError where something is said that no flow policy has."""
    for name in ("num_train_timesteps", "ft_denoising_steps"):
        if flags.get(name) is not None:
            raise UserError(
                f"found --{name}={flags[name]}, but the kind is {kind}, which has no "
                "such number; drop the one that is wrong"
            )
    if is_fine_tuned:
        raise UserError(
            f"{source} has two networks, as a fine-tuned diffusion, but the kind is "
            f"{kind}; drop what says so"
        )


def check_carried(source: str | Path, content: Any) -> dict[str, Any]:
    """Returns what one of our own files says about itself; {} for other files.

    Raises:
      UserError: it says what no policy has.
    """
    values = content.get(CARRIED, {}) if isinstance(content, Mapping) else {}
    ranges = {
        "task": lambda v: type(v) is str and (v in task_names() or ":" in v),
        "num_train_timesteps": lambda v: type(v) is int and 2 <= v <= MAX_TIMESTEPS,
        "activation": lambda v: v in ACTIVATIONS,
        "policy_kind": lambda v: v in POLICY_KINDS,
        "ft_denoising_steps": lambda v: type(v) is int and 1 <= v <= MAX_TIMESTEPS,
    }
    known = isinstance(values, Mapping) and not set(values) - set(ranges)
    hashable = known and all(isinstance(v, str | int) for v in values.values())
    if not hashable or not all(ranges[name](value) for name, value in values.items()):
        raise UserError(
            f"{source}: found {CARRIED!r} {values!r:.120}, expected what --to_torch "
            "writes; write the file again"
        )
    return dict(values)


def _choose(name: str, flag: Any, said: DppoConfig | None, carried: Any) -> Fact | None:
    """What flag, YAML and file say, as long as they say the same."""
    facts = [
        Fact(value, source)
        for value, source in (
            (flag, f"--{name}"),
            (None if said is None else getattr(said, name), str(said and said.path)),
            (carried, "the file itself"),
        )
        if value is not None
    ]
    for other in facts[1:]:
        if other.value != facts[0].value:
            first = f"{name} {facts[0]}"
            if flag is not None:
                first = f"--{name}={flag}"
            raise UserError(
                f"found {first}, but {other.source} says {other.value}; drop the one "
                "that is wrong"
            )
    return facts[0] if facts else None


def _with_path(
    name: str, chosen: Fact | None, flag: Any, source: Path, notes: list[str]
) -> Fact | None:
    """Asks the path where nobody else says anything; else compares with it."""
    letters = _IN_PATH.get(name)
    number = None if letters is None else _number_in(source, letters)
    if number is None:
        return chosen
    word = f"{letters}{number}"
    if chosen is None:
        return Fact(number, f"{word} in its path")
    if chosen.value != number and flag is None and chosen.source != "the file itself":
        raise UserError(
            f"{source}: {chosen.source} says {name} {chosen.value}, but the path says "
            f"{word}; give --{name}={chosen.value} if the first is right, else drop "
            "--dppo_config"
        )
    if chosen.value != number:
        notes.append(f"the path of {source.name} says {word}; {name} is {chosen}")
    return chosen


def _words(source: Path) -> list[list[str]]:
    """The words of the file's name, then of each folder above it."""
    path = source.absolute()
    parts = [path.stem, *reversed(path.parent.parts)]
    return [re.split(r"[^a-z0-9]+", part.lower()) for part in parts]


def _number_in(source: Path, letters: str) -> int | None:
    """The number behind `letters` nearest to the file; None where two disagree."""
    for words in _words(source):
        found = {
            int(match[1])
            for word in words
            if (match := re.fullmatch(rf"{letters}([0-9]{{1,5}})", word))
        }
        if found:
            number = found.pop()
            return None if found or not 1 <= number <= MAX_TIMESTEPS else number
    return None


def _tasks_in(source: Path) -> list[str]:
    """The tasks that the nearest folder which names any names."""
    named = (
        [task for task in task_names() if task in words] for words in _words(source)
    )
    return next((tasks for tasks in named if tasks), [])
