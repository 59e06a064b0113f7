"""The kinds of policies by name; a new one is a file and a line here."""

from dynvgd_jax.diffusion.base import Kind
from dynvgd_jax.diffusion.diffusion_mlp import DIFFUSION_MLP
from dynvgd_jax.diffusion.flow_mlp import FLOW_MLP

# `kind` in policy.json -> what such policies do. Folders that name none are the first.
KINDS: dict[str, Kind] = {
    "diffusion_mlp": DIFFUSION_MLP,
    "flow_mlp": FLOW_MLP,
}
FIRST_KIND = "diffusion_mlp"
