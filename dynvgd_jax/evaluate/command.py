r"""Evaluates a run's checkpoint or a policy, base and steered, on the same episodes.

  python -m dynvgd_jax.evaluate runs/can_ddim8-quick-seed0
  python -m dynvgd_jax.evaluate runs/can_ddim8-quick-seed0/checkpoints/128000 \
      --episodes=400 --seed=1 --config.guidance.scale=0.01
  python -m dynvgd_jax.evaluate builtin:square --num_envs=10

The first argument is a run folder (its newest checkpoint), one checkpoint, a policy
folder or builtin:<task>. Plays the base policy from each start noise of eval.noises,
then the steered one, prints a table with 95 % intervals and the paired differences,
and writes eval.csv, config.json and versions.json to a new folder.

--episodes, --seed, --num_envs, --num_threads
           short for --config.eval.episodes, --config.eval.seed, --config.eval.num_envs
           and --config.env.num_threads: by default the run's own. Which episodes are
           played depends on the seed alone
--config.* any other field of the run, as dynvgd_jax.load_agent takes it
--videos   films of so many episodes, the base policy's failures first: base and
           steered policy side by side, with a poster, in the results' folder; see
           docs/videos.md
--output   new folder for the results; by default <run>/evaluations/<control
           steps>-seed<seed>, of a policy runs/evaluation-<policy>-seed<seed>;
           fields other than those of eval add six digits, such as -3fa2b1
--quiet    errors and the final table only
--version  prints the program's version

Mistakes are answered with one line on stderr and exit code 2.
"""

import os
import re
from pathlib import Path
from typing import Any

# Read by XLA when it is imported: no chatter.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
from ml_collections import ConfigDict

from dynvgd_jax.core import overrides
from dynvgd_jax.core.command import define_quiet, run_main
from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import flat
from dynvgd_jax.core.jax_start import import_jax, open_devices
from dynvgd_jax.core.output import quietly
from dynvgd_jax.runs.compile_cache import use_compile_cache

NAME = "dynvgd_jax.evaluate"
SHORT = {
    "episodes": "eval.episodes",
    "seed": "eval.seed",
    "num_envs": "eval.num_envs",
    "num_threads": "env.num_threads",
}


def main(argv: list[str]) -> int:
    """Runs the evaluation that `argv` asks for and returns the exit code."""
    return run_main(
        NAME,
        argv,
        lambda: __doc__,
        lambda: _evaluate(argv),
        memory_advice="lower --num_envs",
        disk_note="nothing was written",
    )


def _evaluate(argv: list[str]) -> None:
    """Only now are JAX and the simulator imported."""
    if len(argv) < 2 or argv[1].startswith("-"):
        found = argv[1] if len(argv) > 1 else "nothing"
        raise UserError(
            f"found {found}, expected first a run folder, a checkpoint, a policy "
            "folder or builtin:<task>"
        )
    use_compile_cache()
    import_jax()
    from dynvgd_jax.evaluate.run import run_evaluation, source_config

    source = str(expand(argv[1]))
    original = source_config(source)
    config, changes, output, films, quiet = parse([argv[0], *argv[2:]], original)
    with quietly(quiet):
        open_devices()
        run_evaluation(source, config, changes, output, films=films)


def parse(
    argv: list[str], original: ConfigDict
) -> tuple[ConfigDict, dict[str, Any], Path | None, int, bool]:
    """Returns the configuration, what of `original` it changes, and other flags.

    These are --output, --videos and --quiet.

    Raises:
      UserError: whatever is wrong with the arguments.
    """
    changed = ConfigDict(original.to_dict())
    values = overrides.parse_over(changed, _spell_out(argv), _define_flags)
    if values.output is not None and not values.output.strip():
        raise UserError("--output: found nothing, expected a folder")
    if values.videos < 0:
        raise UserError(f"--videos: found {values.videos}, expected at least 0")
    before = flat(original)
    changes = {n: v for n, v in flat(values.config).items() if v != before[n]}
    output = values.output and expand(values.output)
    return values.config, changes, output, values.videos, values.quiet


def _spell_out(argv: list[str]) -> list[str]:
    """`argv` with the short names of fields replaced by the fields."""
    pattern = re.compile(rf"--?({'|'.join(SHORT)})(=.*)?", re.DOTALL)
    matches = [pattern.fullmatch(argument) for argument in argv]
    return [
        f"--config.{SHORT[match[1]]}{match[2] or ''}" if match else argument
        for match, argument in zip(matches, argv, strict=True)
    ]


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("output", None, "New folder.", flag_values=values)
    flags.DEFINE_integer("videos", 0, "Films.", flag_values=values)
    define_quiet(values)
