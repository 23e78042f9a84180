"""Pictures of a finished run that has learned what actions do: its plans drawn in the world, its rollouts as frames.

Latents are read as the nearest of the latents of a bank of training frames, whose frames and places are known. Starts
and goals are not the sealed ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from results.page import Picture
from ssl_bench.data import rollouts
from ssl_bench.data.dataset import Dataset
from ssl_bench.data.trajectories import Trajectories
from ssl_bench.data.world import World, parse
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.evaluation.actors import searching
from ssl_bench.evaluation.latents import Latents
from ssl_bench.evaluation.planner import CEMConfig, act
from ssl_bench.evaluation.world_scorers import BUDGETS, reached
from ssl_bench.experiments.sheets import sheet
from ssl_bench.experiments.strips import strips

SHOWN, STRIPS = 4, 3  # episodes for each kind of goal; trajectories
BANK = 100  # training trajectories whose frames latents are read by
AHEAD = 8  # frames that are foretold
SIDE, FRAME = 176, 64  # pixels of a drawn room, and of a frame at least: dots are small
DIM = 0.6  # of what the world shows, under what is drawn
START, GOAL, WALKED, FORETOLD = (255, 255, 255), (255, 205, 60), (90, 200, 255), (255, 120, 200)


@dataclass(frozen=True)
class Bank:
    """Latents [M, D], the frames uint8 [M, C, H, W] they are of, and where the agent is in them [M, 2]."""

    latents: Tensor
    frames: Tensor
    places: np.ndarray

    def nearest(self, z: Tensor) -> Tensor:
        """Rows [...] of the nearest latents to z [..., D]."""
        found = torch.cdist(z.flatten(0, -2), self.latents).argmin(1)
        return found.unflatten(0, z.shape[:-1])


def of_run(encoder: Encoder, whole: Dataset) -> list[Picture]:
    """Nothing for a run without dynamics. `whole` is its set of trajectories."""
    if encoder.dynamics is None or not isinstance(whole.item, Trajectories):
        return []
    known = Latents(encoder, encoder.dynamics, {})
    bank = banked(known, whole, parse(whole.name).world)
    return [plans(known, bank, whole), foretold(known, bank, whole)]


def banked(known: Latents, whole: Dataset, world: World) -> Bank:
    assert whole.train.targets is not None and isinstance(whole.item, Trajectories)
    rows = np.linspace(0, len(whole.train) - 1, min(BANK, len(whole.train))).astype(int)
    frames = whole.item.frames(whole.train.batch(rows)).flatten(0, 1)
    states = whole.train.targets[torch.from_numpy(rows)].reshape(len(frames), -1).numpy()
    return Bank(known.encode(frames).cpu(), frames, states[:, list(world.position[:2])])


def plans(known: Latents, bank: Bank, whole: Dataset) -> Picture:
    """What CEM does by these latents, far goals above near ones."""
    assert isinstance(whole.item, Trajectories)
    world, size, rows, met = parse(whole.name).world, whole.item.height, [], []
    actor = searching(world, size, known, config := CEMConfig())
    for goals, budget in BUDGETS.items():
        found = rollouts.episodes(world, goals, SHOWN, sealed=False)
        actions = act(world, found, budget, config.executed, actor.deciding(SHOWN, goals))
        first = known.encode(torch.from_numpy(world.render(found.start, size)))
        steps = torch.from_numpy(actions[:, : AHEAD * world.every]).unflatten(1, (AHEAD, world.every)).flatten(2)
        ahead = known.dynamics.rollout(first[:, None], steps.to(first.device)).cpu()
        told, met_now = bank.places[bank.nearest(ahead).numpy()], reached(world, found, actions)
        met.append(f"{int(met_now.sum())} of {SHOWN} {goals}")
        drawn = [drawing(world, found, actions, told, i) for i in range(SHOWN)]
        rows.append(torch.stack(drawn))
    share = " and ".join(met)
    alt = f"{share} goals reached. Circle: goal. White: start. Blue: the way gone, a dot where it was planned anew. "
    alt += f"Pink: what the dynamics foretold of it from the first frame alone, {AHEAD * world.every} steps ahead"
    return Picture(f"Plans: {share} goals reached (blue: gone, pink: foretold)", alt, sheet(rows, SIDE))


def drawing(world: World, found: rollouts.Episodes, actions: np.ndarray, told: np.ndarray, i: int) -> Tensor:
    """Episode i: [3, SIDE, SIDE] in 0..1."""
    scale, at = SIDE / world.span, list(world.position[:2])
    seen = world.render(found.start[i : i + 1], SIDE)[0].transpose(1, 2, 0)
    image = Image.fromarray((DIM * seen).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    state, way = found.start[i : i + 1], [found.start[i, at] * scale]
    for action in actions[i]:
        if not action.any():  # the goal is met
            break
        state = world.step(state, action[None].astype(np.float64))
        way.append(state[0, at] * scale)

    def dot(place: np.ndarray, radius: float, colour: tuple[int, int, int], **how: int) -> None:
        box = [*(place - radius), *(place + radius)]
        pen.ellipse(box, outline=colour, **how) if how else pen.ellipse(box, fill=colour)

    pen.line([tuple(p) for p in way], fill=WALKED, width=2)
    for place in way[:: CEMConfig().executed * world.every]:
        dot(place, 2.5, WALKED)
    for place in told[i, : -(-(len(way) - 1) // world.every)] * scale:
        dot(place, 2.5, FORETOLD)
    dot(way[0], 3.5, START)
    dot(found.goal[i, at] * scale, world.radius * scale, GOAL, width=2)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def foretold(known: Latents, bank: Bank, whole: Dataset) -> Picture:
    """Held-out trajectories above what is foretold from their first frame and all actions, as the nearest frames."""
    assert isinstance(whole.item, Trajectories)
    items = whole.val.batch(np.linspace(0, len(whole.val) - 1, min(STRIPS, len(whole.val))).astype(int))
    frames, actions = whole.item.frames(items)[:, : AHEAD + 1], whole.item.actions(items)[:, :AHEAD]
    first = torch.stack([known.encode(one[:1]) for one in frames])
    ahead = known.dynamics.rollout(first, actions.to(first.device))
    read = bank.frames[bank.nearest(torch.cat([first, ahead], 1).cpu())]
    alt = f"{len(items)} held-out trajectories, every {whole.item.every} steps, each above what is foretold from its "
    alt += "first frame and the actions; a latent is shown as the training frame whose latent is nearest"
    larger = -(-FRAME // frames.shape[-1])
    rows = [part.repeat_interleave(larger, -1).repeat_interleave(larger, -2) / 255 for part in (frames, read)]
    return Picture("Rollouts: true frames above foretold ones", alt, strips(rows))
