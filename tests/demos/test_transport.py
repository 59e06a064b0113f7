"""Transport's two hands: who does what when, by hand and in the simulator."""

import numpy as np
import pytest

from dynvgd_jax.demos import transport
from dynvgd_jax.demos.experts import PairExpert, make_expert
from dynvgd_jax.demos.motion import CLOSE, OPEN, Hand, pointing_down, servo
from dynvgd_jax.demos.transport import TransportScene, TransportStyle, decide

pytestmark = pytest.mark.usefixtures("simulators")

STYLE = TransportStyle()
# The hammer's third axis along -y or y: its head lies at the first or second base.
HEAD_NEAR = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]])
HEAD_FAR = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


def hand(arm, pos=None, width=0.08):
    pos = transport.HOME_M[arm] if pos is None else pos
    return Hand(np.array(pos), pointing_down(transport.START_YAWS_RAD[arm]), width)


def make_scene(**changes):
    """A fresh episode: lid on, payload in the start bin, trash in the target bin."""
    scene = TransportScene(
        hands=(hand(0), hand(1)),
        lid_pos=np.array([0.2, -0.45, 0.975]),
        payload_pos=np.array([0.2, -0.45, 0.825]),
        payload_rot=HEAD_NEAR,
        trash_pos=np.array([-0.2, 0.45, 0.83]),
        trash_rot=np.eye(3),
    )
    return scene._replace(**changes)


def offered(second, **changes):
    """The lid is off, the trash away, the first hand holds out the payload."""
    return make_scene(
        hands=(hand(0, [0.0, -0.06, 1.04], 0.03), second),
        lid_pos=np.array([-0.2, -0.45, 0.825]),
        payload_pos=np.array([0.0, 0.0, 1.04]),
        trash_pos=np.array([0.2, 0.45, 0.83]),
    )._replace(**changes)


def test_first_the_lid_and_the_trash():
    first, second = decide(STYLE, make_scene())
    assert first.grip == second.grip == OPEN
    at = (hand(0, [0.2, -0.45, 0.975]), hand(1, [-0.2, 0.45, 0.83]))
    first, second = decide(STYLE, make_scene(hands=at))
    assert first.grip == second.grip == CLOSE
    held = (hand(0, at[0].eef_pos, 0.02), hand(1, at[1].eef_pos, 0.04))
    first, second = decide(STYLE, make_scene(hands=held))
    assert first.grip == second.grip == CLOSE
    # up before across; beside their bases both lean away from them
    np.testing.assert_allclose(first.pos, [0.2, -0.43, STYLE.carry_z])
    np.testing.assert_allclose(second.pos, [-0.2, 0.43, STYLE.carry_z])


def test_the_lid_is_let_go_low_and_away():
    lid = np.array([-0.2, -0.45, 0.84])
    scene = make_scene(hands=(hand(0, lid, 0.02), hand(1)), lid_pos=lid)
    assert decide(STYLE, scene)[0].grip == OPEN
    high = lid + [0.0, 0.0, 0.1]
    scene = make_scene(hands=(hand(0, high, 0.02), hand(1)), lid_pos=high)
    first = decide(STYLE, scene)[0]
    assert first.grip == CLOSE and first.pos[2] < high[2]


@pytest.mark.parametrize("rot", [HEAD_NEAR, HEAD_FAR])
def test_the_hands_share_the_handle(rot):
    """10.5 cm apart, the first nearer to its base, both on the handle of 20 cm."""
    scene = offered(hand(1), payload_rot=rot)
    mine = transport._handle(scene, STYLE.grasp_along)
    other = transport._handle(scene, -STYLE.take_along)
    np.testing.assert_allclose(other - mine, [0.0, 0.105, 0.0], atol=1e-12)
    assert -0.09 < mine[1] < other[1] < 0.09


def test_the_payload_changes_hands():
    waiting = offered(hand(1, transport.WAIT_M))
    first, second = decide(STYLE, waiting)
    assert first.grip == CLOSE and first.resting and second.grip == OPEN
    assert second.pos[1] < transport.WAIT_M[1]
    there = [0.0, 0.045, 1.04]
    assert decide(STYLE, offered(hand(1, there)))[1].grip == CLOSE
    # taken: the first hand opens, the second keeps still until that one is gone
    taken = offered(hand(1, there, 0.03))
    first, second = decide(STYLE, taken)
    assert first.grip == OPEN and second.grip == CLOSE
    np.testing.assert_array_equal(second.pos, there)
    opened = (hand(0, [0.0, -0.06, 1.04]), hand(1, there, 0.03))
    first, second = decide(STYLE, taken._replace(hands=opened))
    assert first.pos[2] > 1.1
    np.testing.assert_array_equal(second.pos, there)
    gone = (hand(0, [0.0, -0.06, 1.14]), hand(1, there, 0.03))
    second = decide(STYLE, taken._replace(hands=gone))[1]
    assert second.grip == CLOSE and second.pos[0] < 0.0 and second.pos[1] > 0.045


def test_bad_operators_let_go_where_good_ones_hold():
    near = offered(hand(1, [0.0, 0.045, 1.08]))  # 4 cm above the handle, still open
    assert decide(STYLE, near)[0].grip == CLOSE
    assert decide(STYLE._replace(let_go_off=0.05), near)[0].grip == OPEN
    trash = np.array([0.0, 0.45, 1.06])
    carrying = make_scene(hands=(hand(0), hand(1, trash, 0.04)), trash_pos=trash)
    assert decide(STYLE, carrying)[1].grip == CLOSE
    assert decide(STYLE._replace(trash_let_go_x=-0.02), carrying)[1].grip == OPEN
    payload = np.array([-0.1, 0.2, 1.06])
    hands = hand(0), hand(1, payload + [0.0, 0.045, 0.0], 0.03)
    carrying = offered(hands[1], hands=hands, payload_pos=payload)
    assert decide(STYLE, carrying)[1].grip == CLOSE
    assert decide(STYLE._replace(let_go_y=0.22), carrying)[1].grip == OPEN


def test_both_rest_when_the_work_is_done():
    done = offered(hand(1), hands=(hand(0), hand(1)))
    done = done._replace(payload_pos=np.array([-0.2, 0.45, 0.825]))
    assert all(aim.resting for aim in decide(STYLE, done))


def test_a_tilted_aim_turns_the_hand_around_x():
    """0.2 rad off at gain 1: 0.2 / 0.5 of the rotation action around x alone."""
    seen = hand(1)
    aim = transport._aim(STYLE, 1, seen.eef_pos, OPEN, tilt=0.2)
    expected = [0, 0, 0, 0.4, 0, 0, OPEN]
    np.testing.assert_allclose(servo(seen, aim, gain=1.0), expected, atol=1e-9)


def test_the_expert_brings_payload_and_trash_home(simulators):
    """Its scene is the observation's; one whole episode, held for half a second."""
    from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv

    venv = RobosuiteVectorEnv("transport", 1, None)
    venv.reset(np.array([0]), np.array([0]))
    expert = make_expert("transport", "expert", np.random.default_rng(0))
    assert isinstance(expert, PairExpert)
    held = 0
    for step in range(420):
        if step == 200:
            check_scene(transport.read(venv.envs[0]), venv.raw_obs[0])
        action = expert.act(venv.envs[0])
        result = venv.step(np.array([0]), action[None, None])
        held = held + 1 if result.success[0, 0] else 0
        if held == 10:
            break
    venv.close()
    assert held == 10 and expert.object_z > 0.8


def check_scene(scene, obs):
    for arm, seen in enumerate(scene.hands):
        start = 9 * arm
        np.testing.assert_allclose(seen.eef_pos, obs[start : start + 3], atol=1e-12)
        width = obs[start + 7] - obs[start + 8]
        np.testing.assert_allclose(seen.width, width, atol=1e-12)
    np.testing.assert_allclose(scene.payload_pos, obs[18:21], atol=1e-12)
    np.testing.assert_allclose(scene.trash_pos, obs[25:28], atol=1e-12)
    np.testing.assert_allclose(scene.lid_pos, obs[32:35], atol=1e-12)
