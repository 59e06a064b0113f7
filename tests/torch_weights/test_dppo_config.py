"""DPPO's YAML: what tensors cannot tell, contradictions by name, hostile files."""

import pytest
import yaml

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.network import DiffusionMLP
from dynvgd_jax.torch_weights.dppo_config import (
    disagreements,
    read_dppo_config,
)

FINE_TUNING = """
defaults:
  - _self_
name: ${env_name}_ft_ta${horizon_steps}
logdir: ${oc.env:DPPO_LOG_DIR}/x/${now:%Y-%m-%d}_${seed}
env_name: square
obs_dim: 23
action_dim: 7
denoising_steps: 100
ft_denoising_steps: 10
cond_steps: 1
horizon_steps: 4
model:
  denoising_steps: ${denoising_steps}
  denoised_clip_value: 1.0
  predict_epsilon: True
  actor:
    time_dim: 32
    mlp_dims: [1024, 1024, 1024]
    cond_mlp_dims: [512, 64]
    residual_style: True
    cond_dim: ${eval:'${obs_dim} * ${cond_steps}'}
    horizon_steps: ${horizon_steps}
"""
SQUARE = DiffusionMLP(
    obs_dim=23,
    action_dim=7,
    chunk_len=4,
    time_dim=32,
    hidden_dims=(1024,) * 3,
    cond_dims=(512, 64),
)


def write(folder, text):
    (folder / "x.yaml").write_text(text)
    return folder / "x.yaml"


def test_reads_past_interpolations(tmp_path):
    found = read_dppo_config(write(tmp_path, FINE_TUNING))
    assert found[1:5] == ("square", 100, "mish", 10)
    assert disagreements(found, SQUARE) is None


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("env: square", "square"),
        ("env: {n_envs: 50}", None),
        ("env_name: ${env}\nenv: can", "can"),
        ("env_name: hopper-medium-v2\nenv: gym", "hopper"),
        ("env_name: kitchen-mixed-v0\nenv: gym", None),
        ("env_name: lift\nenv: {n_envs: 50}", "lift"),
    ],
)
def test_pre_training_names_the_task_by_env(tmp_path, text, task):
    assert read_dppo_config(write(tmp_path, text)).task == task


def test_a_yaml_of_another_size_than_the_tensors_is_named(tmp_path):
    text = FINE_TUNING.replace("[1024, 1024, 1024]", "[512, 512, 512]")
    text = text.replace("    cond_mlp_dims: [512, 64]\n", "")
    line = disagreements(read_dppo_config(write(tmp_path, text)), SQUARE)
    assert "mlp_dims [512, 512, 512] (tensors: [1024, 1024, 1024])" in line
    assert "cond_mlp_dims None (tensors: [512, 64])" in line
    assert "time_dim" not in line and "\n" not in line


def test_references_are_followed_and_circles_count_as_not_said(tmp_path):
    text = "a: ${b}\nb: ${c}\nc: 20\ndenoising_steps: ${a}\nenv_name: ${name}\n"
    text += "name: ${env_name}\nft_denoising_steps: 0\n"
    found = read_dppo_config(write(tmp_path, text))
    assert found[1:5] == (None, 20, None, None)


NESTED = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("denoising_steps: 1", "found 1, expected a whole number from 2"),
        ("denoising_steps: true", "found True"),
        ("ft_denoising_steps: many", "found 'many'"),
        ("model: {predict_epsilon: false}", "predict_epsilon is False"),
        ("model: {denoised_clip_value: 2}", "denoised_clip_value is 2"),
        ("model: {final_action_clip_value: 1}", "final_action_clip_value"),
        ("cond_steps: 2", "cond_steps is 2"),
        ("model: {network: {activation_type: Tanh}}", "expected one of mish, relu"),
        ("- 1", "holds list"),
        ("", "holds NoneType"),
        ("a: [", "cannot be read as YAML"),
        ("a: !!python/object/apply:os.system [ls]", "cannot be read as YAML"),
        ("a: !!int ''", "cannot be read as YAML"),
        ("[" * 5000, "nested deeper than 32"),
        ("- " * 5000, "nested deeper than 32"),
        (NESTED, "uses aliases"),
        ("#" * 70_000, "expected at most 65,536"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_dppo_config(write(tmp_path, text))
    with pytest.raises(UserError, match="no such file"):
        read_dppo_config(tmp_path / "absent")


def test_the_example_is_what_yaml_reads():
    assert yaml.safe_load(FINE_TUNING)["model"]["actor"]["time_dim"] == 32
