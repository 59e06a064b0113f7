import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import (
    Normalization,
    load_normalization,
    normalize_action,
    normalize_obs,
    save_normalization,
    unnormalize_action,
    unnormalize_obs,
)

NORM = Normalization(
    obs_min=np.array([0.0, -2.0, 5.0], np.float32),
    obs_max=np.array([1.0, 2.0, 5.0], np.float32),
    action_min=np.array([-1.0, 0.0], np.float32),
    action_max=np.array([1.0, 0.5], np.float32),
)


def test_observation_by_hand():
    # 2*(0.25/1.000001 - 0.5), 2*(3/4.000001 - 0.5); the constant entry sits at -1,
    # and a deviation of 1e-6 from it counts as a whole unit: 2*(1e-6/1e-6 - 0.5) = 1
    obs = np.array([[0.25, 1.0, 5.0], [2.0, -2.0, 5.000001]])
    expected = [[-0.5000005, 0.49999962, -1.0], [2.999996, -1.0, 1.0]]
    got = normalize_obs(NORM, obs)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-7)


def test_action_by_hand():
    # (a + 1)/2 * (max - min) + min, and no clip outside [-1, 1]
    action = np.array([[0.5, -1.0], [1.5, 1.0]], np.float32)
    np.testing.assert_array_equal(
        unnormalize_action(NORM, action), [[0.5, 0.0], [1.5, 0.5]]
    )


def test_inverses():
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(4, 3))
    np.testing.assert_allclose(
        unnormalize_obs(NORM, normalize_obs(NORM, obs))[:, :2], obs[:, :2], atol=1e-6
    )
    action = rng.uniform(-1, 1, size=(4, 2))
    np.testing.assert_allclose(
        normalize_action(NORM, unnormalize_action(NORM, action)), action, atol=1e-5
    )


def test_file_round_trip(tmp_path):
    path = tmp_path / "normalization.npz"
    save_normalization(path, NORM)
    for saved, loaded in zip(NORM, load_normalization(path)):
        np.testing.assert_array_equal(saved, loaded)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_normalization(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(UserError, match="not a readable npz"):
        load_normalization(tmp_path / "text.npz")
    np.savez(tmp_path / "part.npz", obs_min=np.zeros(3))
    with pytest.raises(UserError, match="obs_max, action_min"):
        load_normalization(tmp_path / "part.npz")
    save_normalization(tmp_path / "odd.npz", NORM._replace(obs_max=np.zeros(2)))
    with pytest.raises(UserError, match="equal length"):
        load_normalization(tmp_path / "odd.npz")
    none = np.zeros(0)
    empty = NORM._replace(action_min=none, action_max=none)
    save_normalization(tmp_path / "empty.npz", empty)
    with pytest.raises(UserError, match="at least 1"):
        load_normalization(tmp_path / "empty.npz")


@pytest.mark.filterwarnings("error")
def test_values_beyond_float32_are_refused_without_a_warning(tmp_path):
    large = NORM._replace(obs_max=np.array([1.0, 1e300, 5.0]))
    np.savez(tmp_path / "large.npz", **large._asdict())
    with pytest.raises(UserError, match="not finite"):
        load_normalization(tmp_path / "large.npz")
