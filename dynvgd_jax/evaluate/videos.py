"""Films of evaluated episodes: base and steered policy on the same seeds.

An evaluation is watched, not changed: what was decided is remembered, and the films are
drawn afterwards from the same actions in a simulator of their own.
"""

import functools
import io
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from dynvgd_jax.agent import Agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.scores import judged_by_return
from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.envs.base import Camera
from dynvgd_jax.envs.rollout import ActFn
from dynvgd_jax.evaluate import pictures
from dynvgd_jax.evaluate.pictures import Shot
from dynvgd_jax.runs.durable import new_folder
from dynvgd_jax.runs.tensorboard import write_images
from dynvgd_jax.runs.terminal import Progress

FOLDER = "videos"  # in the evaluation's
PICTURE_PX = 320  # a side
CANDIDATES = 200  # films are of the first so many episodes, which are remembered
EVERY = 2  # control steps a frame: at 20 Hz and 20 frames per second twice as fast
FRAMES_PER_S = 20
LINGER = 20  # control steps that a film goes on after a success
STRIP_SHOTS = 5
_GIF_EVERY, _GIF_SCALE = 3, 2  # TensorBoard's are smaller: of frames, of pixels


class Recorder:
    """Decides as `act` does and remembers it, for some episodes."""

    def __init__(self, act: ActFn, seeds: Sequence[int]):
        self._act = act
        # per episode and chunk: (obs [Do], chunk [Ta, Da])
        self._rows = {int(seed): [] for seed in seeds}

    def __call__(self, obs, seeds, chunk_index) -> np.ndarray:
        chunks = self._act(obs, seeds, chunk_index)
        # an evaluation's last wave repeats its first row
        for seed, row in zip(*np.unique(seeds, return_index=True), strict=True):
            rows = self._rows.get(int(seed))
            if rows is not None and len(rows) == chunk_index[row]:
                rows.append((np.copy(obs[row]), np.copy(chunks[row])))
        return chunks

    def episode(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns an episode's observations `[C, Do]` and chunks `[C, Ta, Da]`."""
        obs, chunks = zip(*self._rows[seed], strict=True)
        return np.stack(obs), np.stack(chunks)


class Take(NamedTuple):
    """A policy's episodes, on the same seeds as every other take."""

    name: str
    results: Sequence[EpisodeResult]
    recorder: Recorder
    guide_lambda: float | None = None  # mean over guided steps; None without guidance


class Reel(NamedTuple):
    """One episode of one policy, to be drawn."""

    name: str
    poses: list[Any]
    # control steps until a whole chunk was successful, None where none was
    success_step: int | None
    end: int  # control steps after which the picture stands still
    chunk_len: int
    values: list[dict[str, str]]  # of each chunk
    without_success: str = "failed"  # what is said of such an episode at its end

    def shot(self, camera: Camera, step: int) -> Shot:
        """Returns the moment after `step` control steps."""
        step = min(step, self.end)
        values = self.values[min(step // self.chunk_len, len(self.values) - 1)]
        status = ""
        if self.success_step is not None and step >= self.success_step:
            # what critics say now means nothing: they may have learned up to here
            status, values = "success", {}
        elif step == self.end:
            status = self.without_success
        return Shot(camera.draw(self.poses[step]), self.name, status, step, values)


def load_encoder():
    """Returns the module that writes mp4 files.

    Raises:
      UserError: it is not installed.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(
            "found no imageio-ffmpeg, expected it for videos; run: pip install "
            "imageio-ffmpeg"
        ) from error
    return imageio_ffmpeg


def order(base: Sequence[EpisodeResult], count: int) -> list[int]:
    """Returns which `count` episodes are filmed: the base's failures come first."""
    first = base[:CANDIDATES]
    return sorted(range(len(first)), key=lambda i: first[i].success_chunk)[:count]


def write_videos(
    folder: Path,
    camera: Camera,
    takes: Sequence[Take],
    *,
    title: str,
    count: int,
    agent: Agent | None = None,
) -> None:
    """Films episodes into `folder / FOLDER`: mp4 files, poster, strip, TensorBoard's.

    Args:
      folder: of the evaluation.
      camera: for its task.
      takes: the base policy and what is compared with it.
      title: the task, which stands above posters and strips.
      count: films; fewer where there are fewer episodes.
      agent: whose critics value the chunks of all takes; None shows no values.

    Raises:
      UserError: the encoder is not installed, or the folder exists already.
      OSError: the disk is full.
    """
    chosen = order(takes[0].results, count)
    lasts, titles, moving, strip = [], [], {}, None
    step = agent.env_steps if agent else 0
    with (
        new_folder(folder / FOLDER) as partial,
        Progress(len(chosen), unit="videos") as bar,
    ):
        for number, index in enumerate(chosen):
            seed = takes[0].results[index].seed
            reels = [_reel(camera, take, index, agent) for take in takes]
            if judged_by_return(title):
                reels = [reel._replace(without_success="") for reel in reels]
            frames = list(_frames(camera, reels))
            name = f"{number + 1:02d}-seed{seed}"
            write_mp4(partial / f"{name}.mp4", frames)
            lasts.append(frames[-1])
            titles.append(f"{title}   seed {seed}")
            moving[f"videos/{name}"] = gif(frames)
            if strip is None or (not strip[0] and _tells(reels)):
                strip = (_tells(reels), _strip(camera, reels, titles[-1]))
            bar.update(number + 1, stage=name)
        pictures.write_png(partial / "poster.png", pictures.poster(lasts, titles))
        pictures.write_png(partial / "filmstrip.png", strip[1])
        write_images(partial, step, moving)


def _reel(camera: Camera, take: Take, index: int, agent: Agent | None) -> Reel:
    result = take.results[index]
    obs, chunks = take.recorder.episode(result.seed)
    replay = camera.replay(result.seed, chunks)
    length = chunks.shape[1]
    steps = len(replay.success)
    whole = replay.success[: steps - steps % length].reshape(-1, length).all(axis=1)
    success_step = None
    if whole.any() and not result.fault:
        success_step = (int(np.argmax(whole)) + 1) * length
    if (success_step is not None) != result.success_chunk:
        raise RuntimeError(f"episode {result.seed} of {take.name} was not repeated")
    end = steps if success_step is None else min(steps, success_step + LINGER)
    values = _values(agent, obs, chunks, take.guide_lambda)
    return Reel(take.name, replay.poses, success_step, end, length, values)


def _values(
    agent: Agent | None, obs: np.ndarray, chunks: np.ndarray, guide_lambda: float | None
) -> list[dict[str, str]]:
    """What the critics say about each chunk that was executed, and lambda."""
    fixed = {} if guide_lambda is None else {"λ": f"{guide_lambda:.2g}"}
    if agent is None or agent.method.value is None:
        return [fixed] * len(obs)
    value = _compiled_value(agent.method.value)(agent.learner, obs, chunks)
    both = zip(np.asarray(value.combined), np.asarray(value.weight), strict=True)
    return [{"Q": f"{q:.1f}", "w": f"{w:.2f}"} | fixed for q, w in both]


_compiled_value = functools.lru_cache(maxsize=1)(jax.jit)


def _frames(camera: Camera, reels: Sequence[Reel]) -> Iterator[np.ndarray]:
    """Frames until every policy is done; who is done first stands still."""
    end = max(reel.end for reel in reels)
    standing = {}
    for step in (*range(0, end, EVERY), end):
        shots = []
        for place, reel in enumerate(reels):
            shot = standing.get(place) or reel.shot(camera, step)
            if step >= reel.end:
                standing[place] = shot
            shots.append(shot)
        yield pictures.side_by_side(shots)


def _tells(reels: Sequence[Reel]) -> bool:
    """Whether the first policy fails where the last one succeeds."""
    return reels[0].success_step is None and reels[-1].success_step is not None


def _strip(camera: Camera, reels: Sequence[Reel], title: str) -> np.ndarray:
    rows = []
    for reel in reels:
        steps = np.linspace(0, reel.end, STRIP_SHOTS).astype(int)
        rows.append([reel.shot(camera, int(step)) for step in steps])
    return pictures.filmstrip(title, rows)


def write_mp4(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Writes `[H, W, 3]` uint8 frames, sides even, as H.264.

    Raises:
      OSError: it cannot be written.
    """
    height, width = frames[0].shape[:2]
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {FRAMES_PER_S} -i -"
    coding = "-an -c:v libx264 -pix_fmt yuv420p -crf 20 -movflags +faststart"
    program = load_encoder().get_ffmpeg_exe()
    command = [program, "-loglevel", "error", *source.split(), *coding.split(), path]
    # not by the package's own function, which forks: no good beside JAX's threads
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        for frame in frames:
            process.stdin.write(np.ascontiguousarray(frame))
    if process.returncode:
        raise OSError(f"the encoder ended with code {process.returncode}")


def gif(frames: Sequence[np.ndarray]) -> bytes:
    """Returns a small moving picture of a film, at the film's speed."""
    few = [*frames[::_GIF_EVERY], frames[-1]]
    images = [Image.fromarray(frame).reduce(_GIF_SCALE) for frame in few]
    content = io.BytesIO()
    options = {"duration": 1000 * _GIF_EVERY // FRAMES_PER_S, "loop": 0}
    images[0].save(content, "GIF", save_all=True, append_images=images[1:], **options)
    return content.getvalue()
