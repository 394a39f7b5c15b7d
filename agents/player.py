"""Trained agents as what acts while episodes are collected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from gymnasium.spaces import Space
from stable_baselines3.common.base_class import BaseAlgorithm

from worldflow.agents.algorithms import LOADABLE
from worldflow.agents.saved import CARD, WEIGHTS, AgentCard, knows_latents, load_weights, sha256
from worldflow.errors import ConfigError
from worldflow.storage import load_world
from worldflow.world_model import WorldModel


class Player:
    """An agent that acts; a `worldflow.envs.policies.Agent`.

    Args:
        model: any algorithm of Stable-Baselines3 that sees colour frames, or latents.
        path: the file it was loaded from.
        world: whose latents it sees; None: it sees frames.

    Raises:
        ConfigError: the agent sees something else.
    """

    def __init__(self, model: BaseAlgorithm, path: Path, world: WorldModel | None = None) -> None:
        self.frame_stack, self.frame_shape = _seen(model, path, world)
        self.action_space: Space = model.action_space
        self.sha256 = sha256(path)
        self._model, self._world = model, world

    def see(self, frame: np.ndarray) -> np.ndarray:
        """What it sees of a frame (H, W, 3) uint8: the frame, or its latents (N, C) float32."""
        if self._world is None:
            return frame
        with torch.inference_mode():
            return self._world.codec.encode_frames(torch.from_numpy(np.array(frame))).numpy()

    def act(self, stacked: np.ndarray) -> np.ndarray:
        """The most probable action on what it saw last, stacked along the last axis."""
        return self._model.predict(stacked, deterministic=True)[0]


def load_player(path: str, algorithm: str | None = None) -> Player:
    """An agent, on the CPU, from its folder, or from a `.zip` file of a known algorithm.

    Of an agent that sees latents, a checkpoint lies in its folder still, whose card names the
    world.

    Raises:
        ConfigError: there is no such agent, the algorithm is unknown, or what it sees is.
        WorldFormatError: the world whose latents it sees cannot be loaded.
    """
    file = Path(path)
    if algorithm is None:
        card = AgentCard.load(file)
        file = file / WEIGHTS
        return Player(load_weights(card.agent.algorithm, file, device="cpu"), file, _world(card))
    if algorithm not in LOADABLE:
        raise ConfigError(f"policy.algorithm is {algorithm!r}; use one of {', '.join(LOADABLE)}")
    model = load_weights(algorithm, file, device="cpu")
    return Player(model, file, _world(_card_of(file)))


def _card_of(file: Path) -> AgentCard | None:
    """The card of the folder that an agent's `.zip` file or checkpoint lies in."""
    for folder in (file.parent, file.parent.parent):
        if (folder / CARD).is_file():
            return AgentCard.load(folder)
    return None


def _world(card: AgentCard | None) -> WorldModel | None:
    """Whose latents an agent sees."""
    if card is None or card.agent.observation != "latents" or card.world.path is None:
        return None
    world = load_world(card.world.path).eval()
    if not knows_latents(card, card.world.path):
        raise ConfigError(
            f"the codec of the world {card.world.path} has changed since the agent was trained on "
            "its latents: train the agent again"
        )
    return world


def _seen(
    model: BaseAlgorithm, path: Path, world: WorldModel | None
) -> tuple[int, tuple[int, int, int]]:
    """How many observations the agent sees at once, and the shape (H, W, 3) of frames."""
    space = model.observation_space
    shape = space.shape or ()
    if world is not None and shape[:-1] == (world.tokens,) and not shape[-1] % world.channels:
        return shape[-1] // world.channels, world.frame_shape
    # Stable-Baselines3 turns images so that the channels come first, and takes them unturned.
    if world is None and space.dtype == np.uint8 and len(shape) == 3 and not shape[0] % 3:
        return shape[0] // 3, (shape[1], shape[2], 3)
    raise ConfigError(
        f"{path} holds an agent that sees {space}; it must see uint8 colour frames, one or several "
        "stacked along the channels, or the latents of a world, and then lie in the folder that "
        "`worldflow train-agent` wrote"
    )
