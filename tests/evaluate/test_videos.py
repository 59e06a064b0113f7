"""Films show what an evaluation did and change nothing of it."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

from dynvgd_jax.agent import load_agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.envs import base as envs_base
from dynvgd_jax.envs.base import Replay
from dynvgd_jax.envs.rollout import evaluate, evaluation_seeds
from dynvgd_jax.evaluate import command, pictures, videos
from dynvgd_jax.evaluate import run as evaluate_run
from dynvgd_jax.evaluate.pictures import CAPTION_PX, Shot
from dynvgd_jax.evaluate.play import base_act
from dynvgd_jax.evaluate.videos import PICTURE_PX, Recorder, Take
from tests.support.reach import ReachEnv

GREEN, RED = (64, 190, 100), (230, 86, 76)


class ToyCamera:
    """Draws the point of tests/support/reach.py as a white square."""

    def __init__(self, size):
        self.size, self.env, self.closed = size, ReachEnv(1), False

    def replay(self, seed, chunks):
        only = np.array([0])
        self.env.reset(only, [seed])
        poses, success = [self.env.position[0].copy()], []
        for action in chunks.reshape(-1, 1, 1, 2):
            success.append(self.env.step(only, action).success[0, 0])
            poses.append(self.env.position[0].copy())
        return Replay(poses, np.array(success))

    def draw(self, pose):
        picture = np.zeros((self.size, self.size, 3), np.uint8)
        x, y = ((pose + 1) / 2 * (self.size - 20)).astype(int)
        picture[y : y + 20, x : x + 20] = 255
        return picture

    def close(self):
        self.closed = True


@pytest.fixture
def cameras(monkeypatch):
    """Toy environments and cameras; the list of the cameras that were made."""
    made = []

    def make_camera(config, normalization, size):
        made.append(ToyCamera(size))
        return made[-1]

    monkeypatch.setattr(envs_base, "make_env", lambda config, norm, num: ReachEnv(num))
    monkeypatch.setattr(envs_base, "make_camera", make_camera)
    return made


@pytest.fixture
def shots(monkeypatch):
    """Collects what is shown, frame by frame."""
    collected, side_by_side = [], pictures.side_by_side

    def collect(shots):
        collected.append(shots)
        return side_by_side(shots)

    monkeypatch.setattr(pictures, "side_by_side", collect)
    return collected


def run(*arguments):
    return command.main(["evaluate", *map(str, arguments)])


def test_an_evaluation_and_its_films(finished_run, tmp_path, cameras, shots, capsys):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is missing")
    sizes = ["--episodes=5", "--num_envs=2"]
    assert run(finished_run, *sizes, f"--output={tmp_path / 'without'}") == 0
    assert cameras == []
    options = [*sizes, "--videos=2", f"--output={tmp_path / 'with'}"]
    assert run(finished_run, *options) == 0
    for name in ("eval.csv", "config.json"):
        without, found = (tmp_path / side / name for side in ("without", "with"))
        assert found.read_bytes() == without.read_bytes()
    assert cameras[0].closed and len(cameras) == 1
    folder = tmp_path / "with/videos"
    assert f"wrote {folder}" in capsys.readouterr().out
    films = sorted(folder.glob("*.mp4"))
    assert [film.name[:7] for film in films] == ["01-seed", "02-seed"]
    # the untrained base policy never succeeds: frames after 0, 2, ..., 32 control steps
    steps = list(range(0, 34, 2))
    assert [frame[0].step for frame in shots] == 2 * steps
    for film, first in zip(films, (0, 17), strict=True):
        assert ffmpeg.count_frames_and_secs(str(film))[0] == 17
        reader = ffmpeg.read_frames(str(film))
        width, height = next(reader)["size"]
        assert (width, height) == (2 * PICTURE_PX, PICTURE_PX + CAPTION_PX)
        decoded = np.frombuffer(next(reader), np.uint8).reshape(height, width, 3)
        drawn = pictures.side_by_side(shots[first]).astype(int)
        assert np.abs(decoded - drawn).mean() < 3  # as far as the codec is lossy
        reader.close()
    with Image.open(folder / "poster.png") as image:
        assert image.width == 2 * width + 4 and image.height > height
    with Image.open(folder / "filmstrip.png") as image:
        assert image.width == 5 * pictures.STRIP_TILE_PX + 4 * 4
    assert_moving_pictures_in_tensorboard(
        folder, films, load_agent(finished_run).env_steps
    )


def assert_moving_pictures_in_tensorboard(folder, films, env_steps):
    sizes = {event_accumulator.IMAGES: 0}
    events = event_accumulator.EventAccumulator(str(folder), sizes).Reload()
    assert events.Tags()["images"] == [f"videos/{film.stem}" for film in films]
    (event,) = events.Images(f"videos/{films[0].stem}")
    assert event.step == env_steps
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        # every third of 17 and the last one, which stands still
        assert image.format == "GIF" and image.n_frames in (6, 7)


def test_what_is_shown_of_a_chunk(finished_run, tmp_path, cameras, shots):
    pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is missing")
    sizes = ["--episodes=1", "--num_envs=1", "--config.guidance.scale=0.25"]
    assert run(finished_run, *sizes, "--videos=1", f"--output={tmp_path / 'out'}") == 0
    base, steered = shots[0]
    assert (base.policy, steered.policy) == ("base/tanh_randn", "dynvgd/tanh_randn")
    # the one guided step is the last, where the ramp ends: lambda is the scale
    assert list(base.values) == ["Q", "w"] and steered.values["λ"] == "0.25"

    agent = load_agent(finished_run, {"guidance.scale": 0.25})
    (seed,) = evaluation_seeds(agent.config.eval.seed, 1)
    obs = ReachEnv(1).reset(np.array([0]), [seed])
    act = base_act(agent.config, agent.policy, "tanh_randn")
    chunk = act(obs, np.array([seed], np.uint32), np.zeros(1, np.int32))
    value = agent.method.value(agent.learner, obs, chunk)
    assert float(base.values["Q"]) == pytest.approx(float(value.combined[0]), abs=0.06)
    assert float(base.values["w"]) == pytest.approx(float(value.weight[0]), abs=0.006)
    # of the same chunk for its four control steps, frames 0 and 2, then of the next
    assert shots[1][0].values == base.values != shots[2][0].values


def test_a_policy_alone(finished_run, tmp_path, cameras, shots):
    pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is missing")
    sizes = ["--episodes=1", "--num_envs=1", "--config.eval.noises=randn"]
    options = ["--config.ddim_steps=2", "--videos=3", f"--output={tmp_path / 'out'}"]
    assert run(finished_run / "policy", *sizes, *options) == 0
    assert {(shot.policy, *shot.values) for (shot,) in shots} == {("base/randn",)}
    assert len(list((tmp_path / "out/videos").glob("*.mp4"))) == 1


def episode(seed, success, fault=False):
    return EpisodeResult(seed, success, success, -1.0, 4, fault)


def test_failures_of_the_base_come_first():
    results = [episode(i, s) for i, s in enumerate([True, False, True, False])]
    assert videos.order(results, 3) == [1, 3, 0]
    assert videos.order(results, 9) == [1, 3, 0, 2]
    late = [episode(i, True) for i in range(videos.CANDIDATES)] + [episode(-1, False)]
    assert videos.order(late, 1) == [0]  # nothing is remembered of the last one


def test_a_recorder_remembers_each_episode_once():
    env = ReachEnv(2)

    def act(obs, seeds, chunk_index):
        return np.broadcast_to(obs[:, None, :2] / 2, (len(obs), 4, 2))

    recorder = Recorder(act, [5, 7])
    results = evaluate(env, recorder, np.array([5, 6, 7], np.uint32))
    assert results == evaluate(env, act, np.array([5, 6, 7], np.uint32))
    for seed in (5, 7):  # 7 played alone, beside a repetition of itself
        obs, chunks = recorder.episode(seed)
        assert obs.shape == (8, 4) and chunks.shape == (8, 4, 2)
        np.testing.assert_array_equal(obs[:1], env.reset(np.array([0]), [seed]))
        np.testing.assert_array_equal(chunks[3], act(obs[3:4], None, None)[0])
    with pytest.raises(KeyError):
        recorder.episode(6)


class Scripted(ToyCamera):
    """Replays given successes; draws the number of the step."""

    def __init__(self, success):
        self.success, self.drawn = np.array(success, bool), []

    def replay(self, seed, chunks):
        return Replay(list(range(len(self.success) + 1)), self.success)

    def draw(self, pose):
        self.drawn.append(pose)
        return np.full((16, 16, 3), pose, np.uint8)


def reel(success, result):
    recorder = Recorder(lambda obs, seeds, index: np.zeros((1, 4, 2)), [3])
    for chunk in range(10):
        recorder(np.zeros((1, 4)), np.array([3]), np.array([chunk]))
    camera = Scripted(success)
    return camera, videos._reel(camera, Take("base/randn", [result], recorder), 0, None)


def test_success_counts_whole_chunks():
    # chunks 0 0 1 1, 1 0 1 1, 1 1 1 1: the third one is the first whole success
    flags = [0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1] + 28 * [0]
    camera, found = reel(flags, episode(3, True))
    assert (found.success_step, found.end) == (12, 32)
    assert [found.shot(camera, s).status for s in (11, 12, 40)] == [
        "",
        *["success"] * 2,
    ]
    assert camera.drawn == [11, 12, 32]  # a second later it stands still
    frames = list(videos._frames(camera, [found]))
    assert len(frames) == 17 and camera.drawn[3:] == list(range(0, 34, 2))
    with pytest.raises(RuntimeError, match="episode 3 of base/randn was not repeated"):
        reel(flags, episode(3, False))


def test_a_broken_episode_has_failed():
    camera, found = reel(6 * [1], episode(3, False, fault=True))
    assert (found.success_step, found.end) == (None, 6)
    assert found.shot(camera, 4).status == ""
    assert found.shot(camera, 6).status == "failed"


def test_side_by_side():
    shots = [
        Shot(np.full((32, 200, 3), value, np.uint8), "base/randn", status, 4, {})
        for value, status in ((10, "failed"), (20, "success"))
    ]
    frame = pictures.side_by_side(shots)
    assert frame.shape == (32 + CAPTION_PX, 400, 3)
    assert (frame[CAPTION_PX:, :200] == 10).all()
    assert (frame[CAPTION_PX:, 200:] == 20).all()
    assert (frame[CAPTION_PX - 1, :200] == RED).all()
    assert (frame[CAPTION_PX - 1, 200:] == GREEN).all()
    words = shots[0]._replace(values={"Q": "-3.0", "λ": "0.005"})
    assert pictures._words(words) == "step 4   Q -3.0   λ 0.005"
    assert (pictures.captioned(words) != pictures.captioned(shots[0])).any()


def test_a_poster_fills_its_last_row():
    frames = [np.full((40, 100, 3), i, np.uint8) for i in (1, 2, 3)]
    image = pictures.poster(frames, ["a", "b", "c"])
    height = image.shape[0] // 2
    assert image.shape[1] == 204 and (image[height - 1, 104:] == 2).all()
    assert (image[-1, :100] == 3).all() and (image[-1, 104:] == image[-1, -1]).all()


def test_the_strip_is_of_a_film_that_tells():
    def of(success):
        return videos.Reel("x", [], 4 if success else None, 8, 4, [])

    assert videos._tells([of(False), of(True)])
    assert not videos._tells([of(False), of(False)])
    assert not videos._tells([of(True), of(True)]) and not videos._tells([of(False)])


def no_camera(config, normalization, size):
    raise UserError("found no OpenGL")


def test_mistakes_are_one_line(finished_run, tmp_path, cameras, monkeypatch, capsys):
    output = f"--output={tmp_path / 'out'}"
    assert run(finished_run, "--videos=-1", output) == 2
    assert "--videos: found -1, expected at least 0" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(envs_base, "make_camera", no_camera)
        patch.setattr(evaluate_run, "load_encoder", lambda: None)
        assert run(finished_run, "--videos=1", output) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["dynvgd_jax.evaluate: found no OpenGL"]
    assert captured.out == "" and not (tmp_path / "out").exists()  # nothing was played
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert run(finished_run, "--videos=1", output) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("run: pip install imageio-ffmpeg")
    assert not (tmp_path / "out").exists() and cameras == []
