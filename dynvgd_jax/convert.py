r"""Converts PyTorch checkpoints of DPPO and VGD, and data sets; or back to PyTorch.

A DPPO policy to a policy folder, for --config.base_policy:
  python convert_torch_ckpt.py --policy=state_3000.pt --dppo_config=square.yaml \
      --normalization=normalization.npz --output=ckpts/square
The critics of a VGD save to a run folder, for load_agent and --config.initial_critics:
  python convert_torch_ckpt.py --critic=ft_policy_100000_steps.zip \
      --config=configs/square_ddim8.py --config.base_policy=ckpts/square \
      --output=runs/square_torch
Demonstrations (robomimic's HDF5, DPPO's train.npz) to the project's own folder:
  python convert_torch_ckpt.py --dataset=low_dim.hdf5 --output=data/square_ph
What a file holds, and the way back:
  python convert_torch_ckpt.py --inspect=state_3000.pt
  python convert_torch_ckpt.py --to_torch=ckpts/square --output=state.pt
  python convert_torch_ckpt.py --to_torch=runs/square_torch --output=critics.zip

The same as `python -m dynvgd_jax.convert`, which works in any folder.

What a policy's tensors cannot tell comes from --dppo_config=FILE.yaml, from flags
(--task, --num_train_timesteps, --activation, --ft_denoising_steps, for a flow policy
--policy_kind=flow_mlp) or from `td20`, `tdf10`, `reflow` in the file's path; one line
says which. For a data set, --filter_key=KEY takes some episodes of a robomimic file,
and --task says which task it must be of.
docs/checkpoints.md explains all of it. --quiet prints errors and the result only, no
notes; --version prints the program's version.
Mistakes are answered with one line on stderr and exit code 2; nothing is written then.
"""

import logging
import os
import re
import sys
from pathlib import Path

from dynvgd_jax.core.begin import main_of

if __name__ == "__main__":  # first of all, as the packages below may be missing
    sys.exit(main_of("dynvgd_jax.convert", "dynvgd_jax.convert")(sys.argv))

# Read by XLA when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import flags

from dynvgd_jax.core import overrides
from dynvgd_jax.core.command import define_quiet, run_main
from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.output import note, quietly
from dynvgd_jax.envs.base import check_task
from dynvgd_jax.runs.terminal import job, module, print_next, with_policy

PROGRAM = "convert_torch_ckpt.py"
JOBS = ("policy", "critic", "dataset", "inspect", "to_torch")
PATHS = (*JOBS, "output", "normalization", "dppo_config")
_CONFIG = re.compile(r"--?(no)?config(\.|=|$)")


def main(argv: list[str]) -> int:
    """Runs the conversion that `argv` names and returns the exit code."""

    def body() -> None:
        logging.basicConfig(format=f"{PROGRAM}: note: %(message)s")
        values = _parse(argv)
        with quietly(values.quiet):
            _run(values)

    return run_main(
        PROGRAM, argv, lambda: __doc__, body, disk_note="nothing was written"
    )


def _define_flags(values: flags.FlagValues) -> None:
    options = {"flag_values": values}
    define_quiet(values)
    flags.DEFINE_string("policy", None, "DPPO's .pt file.", **options)
    flags.DEFINE_string("critic", None, "VGD's .zip file.", **options)
    flags.DEFINE_string("dataset", None, "Demonstrations.", **options)
    flags.DEFINE_string("inspect", None, "File to describe.", **options)
    flags.DEFINE_string("to_torch", None, "Folder to write for torch.", **options)
    flags.DEFINE_string("output", None, "New folder, or file.", **options)
    flags.DEFINE_string("task", None, "Of policy or data set.", **options)
    flags.DEFINE_string("dppo_config", None, "DPPO's YAML.", **options)
    flags.DEFINE_string("normalization", None, "DPPO's npz.", **options)
    flags.DEFINE_string("filter_key", "", "Episodes of a dataset.", **options)
    flags.DEFINE_enum("weights", None, ("ema", "model"), "Which.", **options)
    flags.DEFINE_enum("activation", None, ("mish", "relu"), "Trunk.", **options)
    kinds = ("diffusion_mlp", "flow_mlp")
    flags.DEFINE_enum("policy_kind", None, kinds, "What it is.", **options)
    flags.DEFINE_integer("num_train_timesteps", None, "T.", 2, 10_000, **options)
    flags.DEFINE_integer("ft_denoising_steps", None, "Last steps.", 1, **options)


def _parse(argv: list[str]) -> flags.FlagValues:
    """The flags; with --critic also a training run's, its configuration as `config`."""
    config = next((a for a in argv[1:] if _CONFIG.match(a)), None)
    is_critic = any(re.match(r"--?critic(=|$)", a) for a in argv[1:])
    if config and not is_critic:
        raise UserError(f"found {config!r}, expected it with --critic only")
    if config:
        values = overrides.parse(argv, _define_flags)[1]
    else:
        values = _parse_plain(argv)
    jobs = [name for name in JOBS if values[name].value is not None]
    if len(jobs) != 1:
        found = " and ".join(f"--{name}" for name in jobs) or "none"
        raise UserError(
            f"found {found}, expected one of {', '.join(f'--{job}' for job in JOBS)}"
        )
    if values.inspect is None and values.output is None:
        raise UserError(f"--{jobs[0]} needs --output=PATH, something that is not there")
    if values.critic is not None and not config:
        overrides.split_config(argv)  # says which configurations there are
    if values.filter_key and values.dataset is None:
        raise UserError("--filter_key: found without --dataset, expected with it")
    if values.task is not None:
        _check_task(values.task)
    for name in PATHS:
        text = values[name].value
        if text is not None and not text.strip():
            raise UserError(f"--{name}: found nothing, expected a path")
        if text is not None:
            values[name].value = str(expand(text))
    return values


def _check_task(task: str) -> None:
    try:
        check_task("task", task)
    except UserError as error:
        raise UserError(str(error).replace("config.task", "--task", 1)) from error


def _parse_plain(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    _define_flags(values)
    try:
        surplus = values(overrides.with_flag_files(argv))[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    if surplus:
        raise UserError(f"found {surplus[0]!r}, expected only --flag=value arguments")
    return values


def _run(values: flags.FlagValues) -> None:
    if values.inspect is not None:
        from dynvgd_jax.torch_weights.inspect import describe

        print(describe(values.inspect, values.weights, values.dppo_config))
    elif values.to_torch is not None:
        _to_torch(values)
    elif values.dataset is not None:
        from dynvgd_jax.demos.convert import convert_dataset

        text = convert_dataset(
            values.dataset,
            values.output,
            values.normalization,
            task=values.task,
            filter_key=values.filter_key,
        )
        print(f"wrote {values.output}: {text}")
        data = f"--config.dataset={Path(values.output) / 'train.npz'}"
        print_next(job(values.task or "", "pretrain", data))
    elif values.critic is not None:
        from dynvgd_jax.torch_weights.run import convert_critics

        lines = convert_critics(values.critic, values.output, values.config)
        _report(values.output, lines)
        print_next({"episodes": module("evaluate", values.output)})
    else:
        _convert_policy(values)


def _to_torch(values: flags.FlagValues) -> None:
    if (Path(values.to_torch) / "config.json").is_file():
        from dynvgd_jax.torch_weights.run import write_critics as write
    else:
        from dynvgd_jax.torch_weights.to_torch import write_torch as write
    write(values.to_torch, values.output)
    print(f"wrote {values.output}")


def _convert_policy(values: flags.FlagValues) -> None:
    from dynvgd_jax.torch_weights.policy import convert_policy

    result = convert_policy(
        values.policy,
        values.output,
        values.task,
        normalization=values.normalization,
        weights=values.weights,
        num_train_timesteps=values.num_train_timesteps,
        activation=values.activation,
        ft_denoising_steps=values.ft_denoising_steps,
        dppo_config=values.dppo_config,
        policy_kind=values.policy_kind,
    )
    _report(values.output, result)
    print_next(with_policy(result.task, result.kind, values.output))


def _report(output: str, result) -> None:
    for text in result.notes:
        note(f"{PROGRAM}: note: {text}")
    print(f"wrote {output}; {result.agreement()}")
