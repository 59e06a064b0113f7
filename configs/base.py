"""Every field of a training run with its unit and source; task files differ from this.

"Published" is Dynamic VGD's PyTorch code. Control steps are counted over all training
environments together (20 a simulated second in each); one vector step is one action
chunk, that is 4 control steps (Transport 8), in every environment.
"""

from ml_collections import ConfigDict

from dynvgd_jax.core.fields import apply_preset


def get_config() -> ConfigDict:
    """Returns the fields shared by all tasks, with Can's published values."""
    config = ConfigDict()

    # What launch.py runs; each kind of configuration file has its own: leave it alone.
    config.job = "train"
    # "lift", "can", "square" or "transport" (robosuite 1.4.1); "hopper", "walker2d",
    # "halfcheetah" or gymnasium's id behind "gym:" (docs/gym.md); "MODULE:NAME", one of
    # your own (docs/own.md).
    config.task = "can"
    # "dynvgd": guidance weighted by the critics' uncertainty; "vgd": fixed weight;
    # "best_of_n": the critics choose among proposals; "edit": and among small learned
    # moves of them; both need `target_backup` "max" or "mean", as in preset :quick;
    # "golden_ticket": one fixed start noise, nothing learned; "base": no guidance;
    # "dsrl_na", "dsrl_sac": an actor that learns the start noise.
    config.method = "dynvgd"
    # The frozen policy: "builtin" (a diffusion policy of the task), "builtin:NAME", or
    # a folder that pretrain wrote.
    config.base_policy = "builtin"
    # Kind that it is meant to be, by which the fields of guidance were chosen:
    # "diffusion_mlp" (published) or "flow_mlp", a rectified flow. Another is refused.
    config.policy_kind = "diffusion_mlp"
    # DDIM steps of every decode, at most the policy's training timesteps (20 or 100);
    # of a flow Euler steps.
    config.ddim_steps = 8
    # Seed of everything that is drawn in training.
    config.seed = 0
    # Seeds that train side by side in one program, `seed` and those that follow, each
    # with its own environments, replay buffer and folder. Published: 1.
    config.num_seeds = 1
    # Matrix products of policy and critics in "float32" (as published), "tf32" (NVIDIA
    # GPUs; float32 elsewhere) or "bfloat16"; parameters, sums and Adam stay float32.
    config.precision = "float32"

    # Budget in control steps. Published.
    config.total_env_steps = 20_000_000
    # Training environments. Published.
    config.num_envs = 8
    # Control steps by the unguided policy before the first training call. Published as
    # 1501 vector steps: 1501 x 8 environments x 4.
    config.first_rollout_env_steps = 48_032
    config.explore = ConfigDict()
    # Start noises of the first rollouts; each episode draws one. Empty is acting_noise.
    # Published (empty).
    config.explore.noises = ()
    # Action chunks for which an episode of the first rollouts keeps its start noise;
    # each episode draws one of them. Published: (1,), a new noise for every chunk.
    config.explore.hold_chunks = (1,)
    # Start noise of acting: "tanh_randn" as published, or "randn".
    config.acting_noise = "tanh_randn"
    # Whether a training episode ends with its first wholly successful chunk, stored as
    # done: with reward_offset 1 nothing is lost or left to earn afterwards, and the
    # control steps saved go into other episodes. Published: no, only the time limit
    # ends one. Evaluation always plays to the time limit.
    config.end_at_success = False
    # Whether targets bootstrap at the time limit. Observations hold no clock, so that
    # without it the end of a failed episode looks as good as success. Published: no.
    config.bootstrap_at_time_limit = False
    # Subtracted from the environment's reward at every control step. Published.
    config.reward_offset = 1.0

    # Gradient steps per training call; one call follows every vector step. Published.
    config.utd = 20
    # Whether a training call runs while the environments step and so cannot draw this
    # step's transitions. Published: no, it waits for them.
    config.overlap = False
    # Transitions per gradient step. Published.
    config.batch_size = 512
    # Adam's step size, constant. Published.
    config.learning_rate = 5e-4
    # Discount per action chunk. Published.
    config.gamma = 0.999
    # Polyak step of the target critics after every gradient step. Published.
    config.target_tau = 0.005
    # TD targets are clipped to +- this; 0 clips nothing (as VGD does). Published.
    config.target_clip = 400.0
    # Target critics combined by "min" (published) or "mean"; "random_pair": the lesser
    # of two of them, drawn for every gradient step.
    config.target_reduce = "min"
    # Next chunks of a TD target: "guided", one decoded anew and guided by the critics
    # (published); "max" or "mean": the highest or the mean target of the observation's
    # `guidance.candidates` proposals, which are then kept in the replay buffer.
    config.target_backup = "guided"
    # Proposals, drawn from those kept, that a gradient step's target looks at; 0: all.
    config.target_proposals = 0
    # Action chunks whose rewards a TD target sums up before it bootstraps; fewer at an
    # episode's end and for the newest transitions. Offline transitions reach over 1.
    # Published: 1.
    config.target_n_step = 1

    config.critic = ConfigDict()
    # What each critic predicts of a return: its "mean" (published), "quantile"s of its
    # distribution, or by "hl_gauss" its mean, learned as the classification of bins.
    config.critic.kind = "mean"
    # Independent critics: Dynamic VGD 4, VGD 2. Published.
    config.critic.num = 4
    # Groups, of as many critics each, that learn apart: every one from batches of its
    # own (of batch_size) towards targets of its own. All act together. Published: 1.
    config.critic.groups = 1
    # Hidden units per layer. Published.
    config.critic.width = 2048
    # Hidden layers, each Linear, LayerNorm, Tanh. Published.
    config.critic.depth = 3
    # Standard deviation, in normalised action units, of Gaussian noise that is added to
    # the actions of each batch, clipped to [-1, 1] afterwards: the critics learn a
    # value that is smooth over that distance. Published: 0.
    config.critic.action_noise = 0.0
    # Value that fresh critics start from, in units of Q. Adam's steps are of one size
    # whatever the loss is: far from all returns, much of a short run is spent on
    # getting there. Published: 0.
    config.critic.initial_value = 0.0
    # Of "quantile": numbers that each critic predicts. Our choice (QR-DQN has 200).
    config.critic.quantiles = 32
    # Of "quantile": errors below it, in units of Q, count as squares. Far below the
    # spread of returns what is learned are quantiles, and nearly means far above it.
    # QR-DQN's value.
    config.critic.kappa = 1.0
    # Of "hl_gauss": bins from v_min to v_max; 3 more lie beyond either end. Our choice:
    # of a width of 4, what a chunk costs (Farebrother et al.: 101 in all).
    config.critic.bins = 100
    # Of "hl_gauss": the least and the greatest target, in units of Q; others count as
    # these. An endless failure is worth -Ta * reward_offset / (1 - gamma), an episode
    # no less than minus its control steps: the least is that of target_clip.
    config.critic.v_min = -400.0
    config.critic.v_max = 0.0
    # Where the learner starts: the folder of a run, or of one of its checkpoints, whose
    # critics (or actor), targets, moments and counts are taken over; "" is a fresh one.
    # Published.
    config.initial_critics = ""

    config.guidance = ConfigDict()
    # lambda: size of the step along the value gradient, in normalised action units per
    # unit of gradient; 0 switches guidance off. Published.
    config.guidance.scale = 0.005
    # Guided DDIM steps, counted from the last; 0 guides all of them. Published.
    config.guidance.last_k = 3
    # Of these only the first so many DDIM steps of the decode; 0 is no such bound. With
    # last_k = 0 and first_k = 4, steps 0 to 3. Published: 0.
    config.guidance.first_k = 0
    # Clean action where the gradient is taken: "decoded", by all remaining steps, from
    # which the decode goes on with the network's noise at the advanced sample
    # (published); "estimate", the step's own, which keeps its own noise.
    config.guidance.point = "decoded"
    # Start noises decoded (and guided) per chunk, of which acting takes the one whose
    # chunk has the highest value. With target_backup "guided" targets
    # decode one. Published: 1.
    config.guidance.candidates = 1
    # Factor of lambda at DDIM step k of K: "linear" (k+1)/K, "cosine"
    # 0.5 - 0.5 cos(pi (k+1)/K), "off" 1. The published YAML says `off`, unquoted, which
    # YAML reads as false, so the published runs used "linear"; this follows the runs.
    config.guidance.time_anneal = "linear"
    # Critics under the gradient combined by "min" (published) or "mean".
    config.guidance.reduce = "min"
    # Critics that guide and choose: the "current" ones (published), or the "target"
    # ones, whose Polyak average (target_tau) changes less from one update to the next.
    config.guidance.critics = "current"
    # w = clip(exp(-beta std(Q) / c_local) exp(-beta td / c_global), 1e-3, 1), where td
    # is the last training call's mean |Q - y|. Unused by method "vgd". Published.
    config.guidance.beta = 1.0
    # Scale of the critics' standard deviation, in units of Q. Published.
    config.guidance.c_local = 5.0
    # Scale of the TD error, in units of Q. Published.
    config.guidance.c_global = 100.0
    # Gradient steps over which lambda rises from 0. Published (0: none).
    config.guidance.warmup_updates = 0
    # Control steps before which w = 1. Published (0: none).
    config.guidance.weight_warmup_env_steps = 0

    config.proposals = ConfigDict()
    # Start noises of the candidates, each kind for an equal share of them; empty is
    # acting_noise. Published (empty).
    config.proposals.noises = ()
    # Floating-point numbers in which they are kept: "float32", or "float16" in half the
    # memory, rounded by up to 2.5e-4 of an action's range of [-1, 1].
    config.proposals.dtype = "float32"

    config.edit = ConfigDict()
    # Most by which method "edit" moves any number of a chunk, in normalised action
    # units; 0 moves nothing. Our choice.
    config.edit.max_step = 0.1
    # What a move costs its network, in units of Q per squared normalised action unit,
    # all numbers of the chunk together. Along a gradient of norm g it then pays up to a
    # length of g / (2 penalty); Square's critics have g of some 15. Our choice.
    config.edit.penalty = 50.0
    # Hidden units per layer of that network. Our choice.
    config.edit.width = 256
    # Hidden layers, as the critics' are. Our choice.
    config.edit.depth = 3

    config.golden_ticket = ConfigDict()
    # Start noises of which the best is sought, by turns for a whole training episode.
    config.golden_ticket.num_tickets = 64

    config.dsrl = ConfigDict()
    # Bound of the learned start noise, in each of its Ta * Da dimensions. DSRL-NA ran
    # with 1, DSRL-SAC with 1.5. Published.
    config.dsrl.noise_magnitude = 1.0
    # Start noises of the first rollouts: "uniform" within the bound (published), or
    # "explore", as the group above says, clipped to the bound.
    config.dsrl.first_noise = "uniform"
    # Hidden units per layer and hidden layers of the actor. Published.
    config.dsrl.actor_width = 2048
    config.dsrl.actor_depth = 3
    # Entropy of the actor's unit noise, in nats, that the entropy coefficient is
    # learned for. At most Ta * Da log(2). Published.
    config.dsrl.target_entropy = 0.0
    # What the coefficient starts from, in units of Q per nat. Published.
    config.dsrl.initial_entropy_coef = 1.0
    # Whether an evaluation takes the actor's mode. Published: no, it samples.
    config.dsrl.deterministic_eval = False
    # Of DSRL-NA: gradient steps of the noise critics after those of a training call,
    # each on its own batch. Published.
    config.dsrl.distill_steps = 10
    # Of DSRL-NA: start noises at which they learn, "randn", beyond the bound too
    # (published), or "uniform" within it.
    config.dsrl.distill_noise = "randn"

    config.replay = ConfigDict()
    # Transitions (action chunks) kept, oldest overwritten first. Published; memory is
    # reserved for what total_env_steps can fill, no more.
    config.replay.capacity = 10_000_000
    # Where they are kept: "device" as published, or "host", whose batches are drawn by
    # the CPU and sent for every training call (other batches, as another seed has).
    config.replay.memory = "device"
    # Transitions from elsewhere beside the run's own: DPPO's train.npz, robomimic's
    # HDF5, or an npz of transitions (docs/checkpoints.md); "" is none. Published.
    config.replay.offline_dataset = ""
    # Of robomimic's HDF5, the filter key (mask/...) of the episodes to read; "": all.
    config.replay.offline_filter_key = ""
    # Share of each batch drawn from them, where there are any. Our choice.
    config.replay.offline_share = 0.5

    config.eval = ConfigDict()
    # Episodes per evaluation, each with its own fixed seed. Published.
    config.eval.episodes = 200
    # Control steps between evaluations. Published as 1000 vector steps: x 8 x 4.
    config.eval.every_env_steps = 32_000
    # Evaluation environments; seeds and start noises do not depend on it. Published.
    config.eval.num_envs = 25
    # Chooses the fixed list of episode seeds; the same list whatever `seed` is.
    config.eval.seed = 0
    # Start noises of the base policy's evaluation before training; the steered policy
    # is evaluated with acting_noise, so that one belongs among them.
    config.eval.noises = ("tanh_randn", "randn")

    config.checkpoint = ConfigDict()
    # Control steps between checkpoints; the last two are kept. Our choice.
    config.checkpoint.every_env_steps = 32_000

    config.log = ConfigDict()
    # Control steps between TensorBoard points, each an average. Our choice.
    config.log.every_env_steps = 1_600

    config.env = ConfigDict()
    # "compiled": our control step, equal to robosuite's up to rounding; "exact": equal
    # to the last bit, half as fast; "robosuite": robosuite's own, the slowest.
    config.env.engine = "compiled"
    # Threads that step environments; 0 uses every core. Results do not depend on it.
    config.env.num_threads = 0

    return config


def with_preset(config: ConfigDict, preset: str) -> ConfigDict:
    """Returns `config` scaled by `preset`; UserError names the known ones."""
    presets = {
        "quick": _quick,
        "hour": _hour,
        "gpu": _gpu,
        "published_quick": _published_quick,
    }
    return apply_preset(config, preset, presets)


def _quick(config: ConfigDict) -> None:
    """What makes Can and Square learn on two CPU cores: docs/results/proposals.md."""
    _small(config)
    config.num_envs = 16
    config.total_env_steps = 192_000
    config.utd = 16
    config.batch_size = 256
    # The critics choose among chunks of the frozen policy. Kept in the replay buffer
    # they are also what targets look at, so that a gradient step decodes nothing.
    config.guidance.candidates = 8
    config.proposals.noises = ("tanh_randn", "randn")
    config.target_backup = "max"
    config.target_proposals = 4
    config.target_reduce = "mean"
    config.guidance.reduce = "mean"
    config.guidance.scale = 0.0
    # Averaged over 200 updates (target_tau is as published): what the latest critics
    # choose differs from one call to the next.
    config.guidance.critics = "target"
    # Episodes of chance first; then returns over a few chunks, which end with success.
    config.first_rollout_env_steps = 32_000
    config.explore.noises = ("randn", "tanh_randn")
    config.end_at_success = True
    config.bootstrap_at_time_limit = True
    config.target_n_step = 3
    # Near the mean return, where else a third of the gradient steps would lead first.
    config.critic.initial_value = -80.0
    config.eval.every_env_steps = 64_000
    config.eval.num_envs = 20  # each takes 100 MB
    config.checkpoint.every_env_steps = 32_000


def _hour(config: ConfigDict) -> None:
    """`:quick` that goes on to twice as many control steps."""
    _quick(config)
    config.total_env_steps = 384_000


def _gpu(config: ConfigDict) -> None:
    """`:quick` at a size for one NVIDIA GPU (H100 or similar) and its 16 cores."""
    _quick(config)
    config.total_env_steps = 200_000
    config.utd = 20
    config.critic.width = 1024
    config.precision = "tf32"
    # Of the 200 episodes a fourth at a time: fewer calls of the policy.
    config.eval.num_envs = 50
    config.eval.every_env_steps = 50_000
    config.checkpoint.every_env_steps = 50_000


def _published_quick(config: ConfigDict) -> None:
    """The published method at a size for two CPU cores: less than an hour."""
    _small(config)
    config.total_env_steps = 128_000
    config.first_rollout_env_steps = 32_000
    config.utd = 2
    config.batch_size = 128
    config.eval.every_env_steps = 64_000
    config.eval.num_envs = 10
    config.checkpoint.every_env_steps = 32_000
    # A value needs about 1 / target_tau updates for one chunk back: with the published
    # 0.005 some thousand updates of one-step targets would end long before Q settles.
    config.target_tau = 0.03


def _small(config: ConfigDict) -> None:
    """Critics that a CPU trains in minutes, whose values settle within them."""
    config.critic.width = 256
    # Q looks 1 / (1 - gamma) chunks ahead: with the published 0.999 some thousand
    # updates would end long before it settles. An episode has 75 (Square 100) chunks.
    config.gamma = 0.97
    config.log.every_env_steps = 1_280
