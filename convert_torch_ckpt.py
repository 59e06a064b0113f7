r"""Converts PyTorch checkpoints of DPPO and VGD, and data sets; or back to PyTorch.

A DPPO policy to a policy folder, for --config.base_policy:
  python convert_torch_ckpt.py --policy=state_3000.pt --task=square \
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

--dppo_config=FILE.yaml gives what a policy's tensors cannot tell: task, T
(--num_train_timesteps), --activation, and --ft_denoising_steps, which fine-tuned files
need. docs/checkpoints.md explains all of it. Mistakes are answered with one line on
stderr and exit code 2; nothing is written then.
"""

import os
import re
import sys
from pathlib import Path

# Read by XLA when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import flags

import launch
from dynvgd_jax.core.config_check import CHOICES
from dynvgd_jax.core.errors import UserError

_CONFIG = re.compile(r"--?(no)?config(\.|=|$)")
JOBS = ("policy", "critic", "dataset", "inspect", "to_torch")


def main(argv: list[str]) -> int:
    """Runs the conversion that `argv` names and returns the exit code."""
    if {"-h", "--help", "-help"} & set(argv[1:]):
        print(__doc__)
        return 0
    own, config_arguments = _split(argv)
    try:
        _run(_parse(own), config_arguments)
    except UserError as error:
        text = " ".join(str(error).split())
        print(f"convert_torch_ckpt.py: {text}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, or one that cannot be read
        text = f"{error.filename or 'the output'}: {error.strerror or error}"
        print(f"convert_torch_ckpt.py: {text}; nothing was written", file=sys.stderr)
        return 2
    return 0


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Returns our own arguments, and those of a training run, launch.py's to parse."""
    own, config_arguments = [], []
    is_value = False  # of a bare --config just before
    for argument in argv:
        is_config = is_value or _CONFIG.match(argument) is not None
        (config_arguments if is_config else own).append(argument)
        is_value = not is_value and argument in ("-config", "--config")
    return own, config_arguments


def _parse(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    options = {"flag_values": values}
    flags.DEFINE_string("policy", None, "DPPO's .pt file.", **options)
    flags.DEFINE_string("critic", None, "VGD's .zip file.", **options)
    flags.DEFINE_string("dataset", None, "Demonstrations.", **options)
    flags.DEFINE_string("inspect", None, "File to describe.", **options)
    flags.DEFINE_string("to_torch", None, "Folder to write for torch.", **options)
    flags.DEFINE_string("output", None, "New folder, or file.", **options)
    flags.DEFINE_enum("task", None, CHOICES["task"], "Robosuite task.", **options)
    flags.DEFINE_string("dppo_config", None, "DPPO's YAML.", **options)
    flags.DEFINE_string("normalization", None, "DPPO's npz.", **options)
    flags.DEFINE_enum("weights", None, ("ema", "model"), "Which.", **options)
    flags.DEFINE_enum("activation", None, ("mish", "relu"), "Trunk.", **options)
    flags.DEFINE_integer("num_train_timesteps", None, "T.", 2, 10_000, **options)
    flags.DEFINE_integer("ft_denoising_steps", None, "Last steps.", 1, **options)
    try:
        surplus = values(argv)[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    if surplus:
        raise UserError(f"found {surplus[0]!r}, expected only --flag=value arguments")
    jobs = [name for name in JOBS if values[name].value is not None]
    if len(jobs) != 1:
        found = " and ".join(f"--{name}" for name in jobs) or "none"
        raise UserError(
            f"found {found}, expected one of {', '.join(f'--{job}' for job in JOBS)}"
        )
    if values.inspect is None and values.output is None:
        raise UserError(f"--{jobs[0]} needs --output=PATH, something that is not there")
    if values.policy is not None and values.task is None and values.dppo_config is None:
        raise UserError(
            f"--policy needs --task, one of {', '.join(CHOICES['task'])}, or "
            "--dppo_config; the file does not tell"
        )
    return values


def _run(values: flags.FlagValues, config_arguments: list[str]) -> None:
    if config_arguments and values.critic is None:
        raise UserError(
            f"found {config_arguments[0]!r}, expected it with --critic only"
        )
    if values.inspect is not None:
        from dynvgd_jax.torch_weights.inspect import describe

        print(describe(values.inspect, values.weights, values.dppo_config))
    elif values.to_torch is not None:
        _to_torch(values)
    elif values.dataset is not None:
        from dynvgd_jax.demos.convert import convert_dataset

        text = convert_dataset(values.dataset, values.output, values.normalization)
        print(f"wrote {values.output}: {text}")
    elif values.critic is not None:
        _convert_critics(values, config_arguments)
    else:
        _convert_policy(values)


def _to_torch(values: flags.FlagValues) -> None:
    if (Path(values.to_torch) / "config.json").is_file():
        from dynvgd_jax.torch_weights.run import write_critics as write
    else:
        from dynvgd_jax.torch_weights.to_torch import write_torch as write
    write(values.to_torch, values.output)
    print(f"wrote {values.output}")


def _convert_critics(values: flags.FlagValues, config_arguments: list[str]) -> None:
    from dynvgd_jax.torch_weights.run import convert_critics

    workdir = f"--workdir={values.output}"
    config, *_ = launch.parse(["launch.py", *config_arguments, workdir])
    if config.job != "train":
        raise UserError(
            f"--critic needs the --config of a training, found {config.job}"
        )
    _report(values.output, convert_critics(values.critic, values.output, config))


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
    )
    _report(values.output, result)


def _report(output: str, result) -> None:
    for note in result.notes:
        print(f"convert_torch_ckpt.py: note: {note}", file=sys.stderr)
    print(f"wrote {output}; largest difference to torch {result.difference:.1e}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
