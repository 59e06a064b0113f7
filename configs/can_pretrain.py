"""A base policy for Can from demonstrations; Lift and Square start here."""

from ml_collections import ConfigDict

from dynvgd_jax.core.fields import apply_preset


def get_config(preset: str = "") -> ConfigDict:
    """Returns the pre-training of Can; preset "builtin" made the packaged policies.

    Preset "flow" trains a flow policy instead of a diffusion. "DPPO" is the published
    pre-training code of the base policies.
    """
    config = ConfigDict()

    # What launch.py runs.
    config.job = "pretrain"
    # As in configs/base.py.
    config.task = "can"
    # Demonstrations: DPPO's train.npz with normalization.npz beside it, or robomimic's
    # low-dimensional HDF5. Made by configs/can_demos.py.
    config.dataset = "data/can/train.npz"
    # Filter key of a robomimic HDF5 ("train", "20_percent"), whose episodes alone are
    # read; "" is all of them.
    config.dataset_filter_key = ""
    # Seed of the weights, the batches and the held-out trajectories.
    config.seed = 0
    # Of matrix products: "float32", "tf32" (NVIDIA GPUs) or "bfloat16".
    config.precision = "float32"

    # Actions per chunk (control steps). Published.
    config.chunk_len = 4
    # "diffusion_mlp" (published); "flow_mlp": a rectified flow, velocities instead of
    # noise by the same network.
    config.policy_kind = "diffusion_mlp"
    # Training timesteps T of a diffusion; a flow has none. Published.
    config.num_train_timesteps = 20
    config.network = ConfigDict()
    # Width of the time embedding. Published.
    config.network.time_dim = 16
    # Hidden units of the trunk; an odd number of equal widths if residual. Published.
    config.network.hidden_dims = (512, 512, 512)
    # Widths of the observation encoder; () is none. Published.
    config.network.cond_dims = ()
    # Of trunk and encoder: "mish" (published) or "relu" (DPPO's Gym policies).
    config.network.activation = "mish"
    # Pre-activation residual blocks instead of a plain MLP. Published.
    config.network.residual = True
    # LayerNorm in the trunk. Published: none.
    config.network.layer_norm = False

    # Gradient steps. DPPO trains for thousands of epochs; ours suits a 2-core CPU.
    config.num_steps = 30_000
    # Chunks per gradient step. DPPO.
    config.batch_size = 256
    # AdamW's peak step size. DPPO.
    config.learning_rate = 1e-4
    # Step size at the first and at the last gradient step. DPPO.
    config.min_learning_rate = 1e-5
    # Gradient steps of the linear rise to the peak; a cosine leads back. DPPO: 100
    # epochs of its much longer training.
    config.warmup_steps = 500
    # AdamW's decoupled weight decay. DPPO.
    config.weight_decay = 1e-6
    # Running mean of the weights, which is what is saved: decay per update. DPPO.
    config.ema_decay = 0.995
    # Gradient steps between two updates of the mean. DPPO.
    config.ema_every_steps = 10
    # Gradient steps during which the mean just copies the weights. DPPO: 20 epochs.
    config.ema_start_step = 1_000
    # Share of the trajectories held out for the validation loss.
    config.validation_share = 0.05

    config.eval = ConfigDict()
    # Episodes per evaluation; 0 evaluates (and simulates) nothing.
    config.eval.episodes = 50
    # Gradient steps between evaluations; each also saves a snapshot of the policy.
    config.eval.every_steps = 10_000
    # Environments that run at once; seeds and start noises do not depend on it.
    config.eval.num_envs = 25
    # Seed of the evaluation's resets and start noises.
    config.eval.seed = 1000
    # Steps of the decode: DDIM's, at most num_train_timesteps, or Euler's of a flow.
    # Published for evaluation.
    config.eval.ddim_steps = 8
    # Start noise: "randn" (as the policy was trained) or "tanh_randn".
    config.eval.noise = "randn"

    config.log = ConfigDict()
    # Gradient steps between two points in TensorBoard; one compiled call each.
    config.log.every_steps = 250

    config.env = ConfigDict()
    # "compiled", "exact" or "robosuite"; see configs/base.py.
    config.env.engine = "compiled"
    # Threads that step environments; 0 takes one per core that may be used.
    config.env.num_threads = 0

    return with_preset(config, preset)


def with_preset(config: ConfigDict, preset: str) -> ConfigDict:
    """Returns the locked configuration after the preset."""
    return apply_preset(config, preset, {"builtin": _builtin, "flow": _flow}).lock()


def _builtin(config: ConfigDict) -> None:
    """The packaged policies: a short training with a larger step, for two CPU cores.

    A running mean over 2,000 steps (every 10th step) would lag behind it.
    """
    config.learning_rate = 1e-3
    config.ema_every_steps = 1
    config.num_steps = 10_000
    config.eval.every_steps = 5_000


def _flow(config: ConfigDict) -> None:
    """A flow by a smaller network: Square's is packaged as `square_flow`.

    The package holds the snapshot after 16,000, imperfect as it is meant to be.
    """
    _builtin(config)
    config.policy_kind = "flow_mlp"
    config.network.hidden_dims = (384, 384, 384)
    config.batch_size = 128
    config.num_steps, config.eval.every_steps = 24_000, 8_000
