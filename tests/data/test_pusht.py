"""Push-T through gym-pusht: pure, as theirs, with ways to its goals."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from click.testing import CliRunner

from ssl_bench.cli.main import cli
from ssl_bench.data import registry, rollouts, world
from ssl_bench.errors import UserError
from ssl_bench.evaluation.planner import follow
from ssl_bench.evaluation.world_scorers import reached

TABLE = world.parse("pusht").world


def test_without_the_extra_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    inner = builtins.__import__

    def missing(name: str, *rest: object) -> object:
        if name.startswith("gym_pusht"):
            raise ImportError(name)
        return inner(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'ssl-bench\[worlds\]'"):
        TABLE.render(TABLE.reset(np.random.default_rng(0), 1), 32)


@pytest.mark.parametrize(
    ("name", "says"), [("pusht:7", "40"), ("pusht:block", "has none"), ("pusht:a:50:3", "pusht:40")]
)
def test_a_wrong_name_is_a_sentence(name: str, says: str):
    with pytest.raises(UserError, match=says):
        registry.find(name)


def test_a_world_without_options_is_listed_so():
    told = " ".join(CliRunner().invoke(cli, ["list", "datasets"]).output.split())
    assert "a world, 1,000 trajectories: Push-T" in told and "pusht:N" in told and "pusht:OPTIONS" not in told
    assert "two_room:OPTIONS:N, options random, distractor, block, colour" in told


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("gym_pusht.envs.pusht", reason="needs the extra `worlds` (gym-pusht)").PushTEnv()


def states(n: int = 6, seed: int = 0) -> np.ndarray:
    return TABLE.reset(np.random.default_rng(seed), n)


def test_it_moves_as_theirs_until_contacts_are_remembered(theirs):
    """Their own environment from the same state: what touches nothing is the same number for number."""
    start, block = states(8), []
    for i, one in enumerate(start):
        theirs._setup()
        theirs.block.angle = float(np.arctan2(one[5], one[4]))
        theirs.block.position, theirs.agent.position = tuple(one[2:4].tolist()), tuple(one[:2].tolist())
        towards = TABLE.middle(start)[i] - one[:2]
        action = np.stack([TABLE.limit * towards / np.hypot(*towards)] * 6)
        ours, disc = one[None], []
        for a in action:
            target = np.clip(ours[0, :2] + 20 * a, 22, 489)
            seen = theirs.step(target)[0]
            ours = TABLE.step(ours, a[None])
            disc.append(np.abs(ours[0, :2] - seen[:2]).max())
        assert max(disc) == 0
        block.append(np.hypot(*(ours[0, 2:4] - seen[2:4])))
    assert np.median(block) < 2 and max(block) < 10, "pixels, by what pymunk keeps of past contacts"


def test_a_step_is_a_function_of_the_state_alone(theirs):
    rng = np.random.default_rng(1)
    actions, path = TABLE.demonstrate(rng, 4, 30)
    again = [TABLE.step(path[::-1, t], actions[::-1, t].astype(np.float64))[::-1] for t in reversed(range(30))]
    assert np.array_equal(np.stack(again[::-1], 1), path[:, 1:])
    assert np.isfinite(path).all() and np.hypot(path[..., 4], path[..., 5]) == pytest.approx(1)
    moved = np.abs(np.diff(path[..., 2:4], axis=1)).max((1, 2))
    assert (moved > 1).any(), "somebody pushes"


def test_the_disc_pushes_the_block_and_stays_on_the_table(theirs):
    state = states(1)
    state[0, :6] = 256, 120, 256, 300, 1, 0  # above the bar of an upright T
    for _ in range(25):
        state = TABLE.step(state, np.array([[0.0, 2.5]]))
    assert state[0, 3] > 330 and state[0, 1] <= 489
    for _ in range(60):
        state = TABLE.step(state, np.array([[-2.5, 0.0]]))
    assert state[0, 0] == pytest.approx(22, abs=1)


def test_pictures_are_theirs_made_smaller(theirs):
    start = states(3)
    small = TABLE.render(start, 64)
    assert small.shape == (3, 3, 64, 64) and not np.array_equal(small[0], small[1])
    for one, frame in zip(start, small, strict=True):
        theirs.reset(options={"reset_to_state": [*one[:4], np.arctan2(one[5], one[4])]})
        theirs.block.angle, theirs.block.position = float(np.arctan2(one[5], one[4])), tuple(one[2:4].tolist())
        for body in (theirs.agent, theirs.block):
            theirs.space.reindex_shapes_for_body(body)
        theirs.observation_width = theirs.observation_height = 512
        mean = theirs._render().reshape(64, 8, 64, 8, 3).mean((1, 3)).transpose(2, 0, 1)
        assert np.abs(frame - mean).max() <= 6
        x, y = (one[:2] / 8).astype(int)
        assert frame[2, y, x] > frame[0, y, x] + 60, "the disc is blue and where the state says"


def test_a_goal_is_a_place_of_both_and_an_angle(theirs):
    state = states(1)
    goal = state.copy()
    goal[0, :4] += 9.9  # 19.8 pixels over four numbers
    assert TABLE.success(state, goal).all()
    goal[0, :4] += 0.2
    assert not TABLE.success(state, goal).any()
    goal = state.copy()
    angle = np.arctan2(state[0, 5], state[0, 4]) + np.radians(19)
    goal[0, 4:6] = np.cos(angle), np.sin(angle)
    assert TABLE.success(state, goal).all()
    angle += np.radians(2)
    goal[0, 4:6] = np.cos(angle), np.sin(angle)
    assert not TABLE.success(state, goal).any()


def test_there_is_a_way_to_every_goal_and_none_that_is_straight(theirs):
    rng = np.random.default_rng(5)
    start = TABLE.reset(rng, 6)
    actions, path = TABLE.drive(rng, start, 40, np.ones(6, bool))
    found = rollouts.Episodes(path[:, 0], path[:, -1])
    assert reached(TABLE, found, actions.astype(np.float64)).all()
    far = rollouts.episodes(TABLE, "far", 6)
    assert (np.hypot(*(far.start[:, 2:4] - far.goal[:, 2:4]).T) > 20).any()
    assert reached(TABLE, far, follow(TABLE, far, 20, TABLE.straight)).mean() < 0.5
    with pytest.raises(UserError, match="oracle"):
        TABLE.oracle(start, start)


def test_events_are_possible_and_impossible(theirs):
    found = TABLE.events(np.random.default_rng(0), 6)
    assert set(found) == {"teleport", "turn", "colour"}
    for event in found.values():
        assert TABLE.after(event.before, event.actions) == pytest.approx(event.usual, abs=1e-6)
    turn = found["turn"]
    assert TABLE.middle(turn.odd) == pytest.approx(TABLE.middle(turn.usual), abs=1e-6)
    assert TABLE.turn(turn.odd, turn.usual) == pytest.approx(np.pi / 2)
