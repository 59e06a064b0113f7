r"""Converts a DPPO policy (PyTorch) to a policy folder, or back.

  python convert_torch_ckpt.py --policy=state_3000.pt --task=square \
      --normalization=normalization.npz --output=ckpts/square
  python convert_torch_ckpt.py --inspect=state_3000.pt
  python convert_torch_ckpt.py --to_torch=ckpts/square --output=state.pt

Fine-tuned files need --ft_denoising_steps. Mistakes are answered with one line on
stderr and exit code 2; nothing is written then.
"""

import os
import sys

# Read by XLA when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import flags

from dynvgd_jax.config_check import CHOICES
from dynvgd_jax.errors import UserError

JOBS = ("policy", "inspect", "to_torch")


def main(argv: list[str]) -> int:
    """Runs the conversion that `argv` names and returns the exit code."""
    if {"-h", "--help", "-help"} & set(argv[1:]):
        print(__doc__)
        return 0
    try:
        _run(_parse(argv))
    except (UserError, OSError) as error:  # all files that it touches are the user's
        text = " ".join(str(error).split())
        print(f"convert_torch_ckpt.py: {text}", file=sys.stderr)
        return 2
    return 0


def _parse(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    options = {"flag_values": values}
    flags.DEFINE_string("policy", None, "DPPO's .pt file.", **options)
    flags.DEFINE_string("inspect", None, "File to describe.", **options)
    flags.DEFINE_string("to_torch", None, "Policy folder to write as .pt.", **options)
    flags.DEFINE_string("output", None, "New folder, or file.", **options)
    flags.DEFINE_enum("task", None, CHOICES["task"], "Robosuite task.", **options)
    flags.DEFINE_string("normalization", None, "DPPO's npz.", **options)
    flags.DEFINE_enum("weights", None, ("ema", "model"), "Which.", **options)
    flags.DEFINE_enum("activation", "mish", ("mish", "relu"), "Trunk.", **options)
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
            f"found {found}, expected one of --policy, --inspect, --to_torch"
        )
    if values.inspect is None and values.output is None:
        raise UserError(f"--{jobs[0]} needs --output=PATH, something that is not there")
    if values.policy is not None and values.task is None:
        raise UserError(
            f"--policy needs --task, one of {', '.join(CHOICES['task'])}; "
            "the file does not tell"
        )
    return values


def _run(values: flags.FlagValues) -> None:
    if values.inspect is not None:
        from dynvgd_jax.torch_weights.inspect import describe

        print(describe(values.inspect, values.weights, values.activation))
    elif values.to_torch is not None:
        from dynvgd_jax.torch_weights.to_torch import write_torch

        write_torch(values.to_torch, values.output)
        print(f"wrote {values.output}")
    else:
        from dynvgd_jax.torch_weights.policy import convert_policy

        difference = convert_policy(
            values.policy,
            values.output,
            values.task,
            normalization=values.normalization,
            weights=values.weights,
            num_train_timesteps=values.num_train_timesteps,
            activation=values.activation,
            ft_denoising_steps=values.ft_denoising_steps,
        )
        print(f"wrote {values.output}; largest difference to torch {difference:.1e}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
