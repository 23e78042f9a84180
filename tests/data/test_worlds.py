"""Worlds, the trajectories made in them, and the seeds that evaluation keeps to itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_bench.config.schema import DataConfig
from ssl_bench.data import registry, rollouts, world
from ssl_bench.data.dataset import open_data, open_test, open_truth
from ssl_bench.data.images import Images
from ssl_bench.data.items import asked, written
from ssl_bench.data.pixels import Unreadable
from ssl_bench.data.trajectories import Trajectories
from ssl_bench.errors import UserError
from ssl_bench.evaluation.planner import follow
from ssl_bench.evaluation.world_scorers import BUDGETS, reached

ROOMS = world.parse("two_room").world
CONFIG = DataConfig("two_room:60", image_size=32, val_fraction=0.2)


def at(x: float, y: float, rooms: world.World = ROOMS) -> np.ndarray:
    state = rooms.reset(np.random.default_rng(0), 1)
    state[:, :2] = x, y
    return state


def pushed(x: float, y: float, action: tuple[float, float], times: int = 1) -> list[float]:
    state = at(x, y)
    for _ in range(times):
        state = ROOMS.step(state, np.array([action]))
    return state[0, :2].round(6).tolist()


def test_contact_is_exact():
    assert pushed(20, 40, (1, 0.5)) == [21, 40.5]
    assert pushed(30, 40, (1, 1)) == [30.5, 41]  # the wall's left face: it slides along
    assert pushed(30.5, 40, (1.5, 0), 9) == [30.5, 40]
    assert pushed(34, 40, (-1.5, 0)) == [33.5, 40]  # its right face
    assert pushed(30, 18, (1.5, 0), 4) == [36, 18]  # through the door
    assert pushed(32, 21, (0, 1.5)) == [32, 22]  # a jamb
    assert pushed(30, 13.9, (1.5, 0.0)) == [30.5, 13.9]  # beside the door
    assert pushed(58.5, 6, (1, -1.4)) == [59, 5]


@pytest.mark.parametrize(("action", "says"), [
    (np.array([[np.nan, 0.0]]), "NaN"), (np.array([[1.8, 1.8]]), "allows 1.8"), (np.zeros((1, 3)), "shape"),
    (np.zeros((2, 2)), "shape"),
])  # fmt: skip
def test_an_action_that_cannot_be_is_a_sentence(action, says):
    with pytest.raises(UserError, match=says):
        ROOMS.step(at(20, 20), action)


def test_floors_and_ceilings_are_those_of_the_geometry():
    """Measured with a prototype of this geometry, 2,000 episodes: random .20 / .00, line .90 / .35, oracle 1.00."""
    rng = np.random.default_rng(0)
    share = {}
    for goals, budget in BUDGETS.items():
        found = rollouts.episodes(ROOMS, goals, 400)
        ways = {
            "random": lambda s, g: ROOMS.clip(rng.uniform(-1.8, 1.8, (len(s), 2))), "line": ROOMS.straight,
            "oracle": ROOMS.oracle,
        }  # fmt: skip
        for name, way in ways.items():
            share[goals, name] = reached(ROOMS, found, follow(ROOMS, found, budget, way)).mean()
    assert share["near", "random"] == pytest.approx(0.20, abs=0.06) and share["far", "random"] < 0.02
    assert share["near", "line"] == pytest.approx(0.90, abs=0.06)
    assert share["far", "line"] == pytest.approx(0.35, abs=0.06)
    assert share["near", "oracle"] == share["far", "oracle"] == 1


def test_the_oracle_reaches_every_goal_with_walls_anywhere():
    rooms = world.parse("two_room:random,distractor,block,colour").world
    found = rollouts.episodes(rooms, "far", 200)
    assert reached(rooms, found, follow(rooms, found, 150, rooms.oracle)).all()


def test_what_is_rendered():
    frame = ROOMS.render(at(20, 40), 32)[0]
    assert frame.shape == (3, 32, 32) and not frame[2].any()
    assert np.unravel_index(frame[0].argmax(), (32, 32)) in ((19, 9), (20, 9), (19, 10), (20, 10))
    assert frame[1, 24, 15] == frame[1, 24, 16] and frame[1, 24, 15] > 180 and frame[1, 9, 15] == 0  # wall, door
    assert frame[1, 0].min() == 255 and frame[1, 16, 8] == 0
    whole = world.parse("two_room:distractor,block").world
    state = whole.reset(np.random.default_rng(1), 4)
    assert whole.render(state, 32)[:, 2].any((1, 2)).all()


@pytest.mark.parametrize(("options", "objects"), [
    ("", ["dot", "walls"]), (":block", ["dot", "walls", "block"]),
    (":random,distractor", ["dot", "walls", "distractor"]),
    (":block,distractor", []), (":colour", []),
])  # fmt: skip
def test_a_channel_shows_one_object_and_nothing_else(options, objects):
    rooms = world.parse(f"two_room{options}").world
    assert list(rooms.objects) == objects
    at = {"dot": [0, 1], "walls": [2, 3], **{name: [c, c + 1] for name, c in rooms.columns.items()}}
    state, other = rooms.reset(np.random.default_rng(0), 50), rooms.reset(np.random.default_rng(1), 50)
    for name, channel in rooms.objects.items():
        moved = state.copy()
        moved[:, at[name]] = other[:, at[name]]
        differ = (rooms.render(moved, 32) != rooms.render(state, 32)).any((0, 2, 3))
        assert differ.tolist() == [c == channel and (name != "walls" or rooms.random) for c in range(3)]


def test_the_block_is_pushed_and_stays_in_its_room():
    rooms = world.parse("two_room:block").world
    state = at(20, 40, rooms)
    state[:, 4:6] = 22, 40
    moved = rooms.step(state, np.array([[1.0, 0.0]]))
    assert moved[0, 4:6].tolist() == [24, 40]
    for _ in range(20):
        moved = rooms.step(moved, np.array([[1.0, 0.0]]))
    assert moved[0, 4] == 30.5


@pytest.mark.parametrize(("name", "says"), [
    ("two_room:blok", "block"), ("two_room:7", "40"), ("two_room:random:", "write"), ("two_room:block,block", "twice"),
    ("two_room:random:500:3", "write"),
])  # fmt: skip
def test_a_wrong_name_is_a_sentence(name, says):
    with pytest.raises(UserError, match=says):
        registry.find(name)


def test_no_generator_reaches_the_seeds_of_evaluation():
    assert all(world.open_seed("a", i) < world.SEALED <= world.sealed_seed("a", i) for i in range(1000))
    with pytest.raises(UserError):
        rollouts.block(ROOMS, "far", 0)
    starts = np.concatenate([rollouts.episodes(ROOMS, goals, 50).start[:, :2] for goals in BUDGETS])
    made = np.concatenate([rollouts.block(ROOMS, split, 0)[1][:, 0, :2] for split in rollouts.SPLITS])
    assert not (starts[:, None] == made).all(2).any()


def test_episodes_and_trajectories_depend_on_their_number_alone():
    few, many = (rollouts.episodes(ROOMS, "near", n) for n in (3, 9))
    assert (few.goal == many.goal[:3]).all() and (few.start == many.start[:3]).all()
    kind = asked(CONFIG, "trajectory")
    first = rollouts.trajectory(ROOMS, "train", 5, kind)
    rollouts.block.cache_clear()
    again = rollouts.trajectory(ROOMS, "train", 5, kind)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def test_an_item_gives_back_frames_and_actions():
    kind = Trajectories(4, 2, 3, 8, 8)
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8)).astype(np.uint8)
    actions = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
    stored = torch.from_numpy(kind.packed(frames, actions))[None]
    assert stored.shape[1:] == kind.shape == (14, 8, 8)
    assert (kind.frames(stored)[0].numpy() == frames).all()
    assert (kind.actions(stored)[0].numpy() == actions.reshape(3, 6)).all()
    assert written(kind.facts) == kind
    with pytest.raises(Unreadable, match="finite"):
        kind.packed(frames, np.where(actions > 2, actions, np.float32("nan")))
    with pytest.raises(Unreadable, match="needed"):
        kind.packed(frames[:3], actions)


def test_a_set_is_built_into_the_store_with_right_moments():
    data = open_data(CONFIG)
    assert isinstance(data.item, Trajectories) and len(data.train) + len(data.val) == 60
    items = torch.cat([part.batch(range(len(part))) for part in (data.train, data.val)])
    frames = data.item.frames(items).double() / 255
    assert data.mean == pytest.approx(frames.mean((0, 1, 3, 4)).tolist(), abs=1e-4)
    assert data.std[:2] == pytest.approx(frames.std((0, 1, 3, 4), unbiased=False).tolist()[:2], abs=1e-4)


def test_states_are_those_of_the_frames_and_in_no_item():
    data = open_data(CONFIG)
    states = data.train.targets.reshape(len(data.train), data.item.length, -1)
    again = ROOMS.render(states[0].double().numpy(), 32)
    apart = np.abs(again.astype(int) - data.item.frames(data.train.batch([0]))[0].numpy().astype(int))
    assert apart.max() <= 1  # float32 states
    actions = data.item.actions(data.train.batch([0]))[0].reshape(-1, 2).numpy()
    state = states[0, :1].double().numpy()
    assert ROOMS.after(state, actions[None, : ROOMS.every])[0, :2] == pytest.approx(states[0, 1, :2].numpy(), abs=1e-4)
    assert data.train.bare().targets is None
    assert open_test(CONFIG).targets is None and open_truth(CONFIG)["targets"].shape == (15, 19 * 4)


def test_an_encoder_of_images_sees_the_first_frame():
    data = open_data(CONFIG)
    pictured = data.pictured()
    assert isinstance(pictured.item, Images) and pictured.pictured() is pictured
    first = data.item.frames(data.val.batch([1, 2]))[:, 0]
    assert torch.equal(pictured.val.batch([1, 2]), first)
    assert torch.equal(data.item.floats(data.val.batch([1, 2])), first.float() / 255)


def test_a_set_asked_for_in_another_shape_is_a_sentence():
    with pytest.raises(UserError, match="square"):
        registry.item(replace(CONFIG, image_size=(32, 48)))


def test_events_are_possible_and_impossible():
    events = ROOMS.events(np.random.default_rng(0), 100)
    assert set(events) == {"teleport", "colour", "wall"}
    for event in events.values():
        assert ROOMS.after(event.before, event.actions) == pytest.approx(event.usual, abs=1e-4)
    wall = events["wall"]
    crossed = np.sign(wall.odd[:, 0] - 32) != np.sign(wall.before[:, 0] - 32)
    stayed = np.sign(wall.usual[:, 0] - 32) == np.sign(wall.before[:, 0] - 32)
    assert crossed.all() and stayed.all()
