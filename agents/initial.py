"""What a training starts with: the network of an agent that learned before."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

from worldflow.agents.saved import WEIGHTS, AgentCard
from worldflow.errors import ConfigError


def start_from(model: BaseAlgorithm, card: AgentCard) -> None:
    """Put the network of `card.initial_agent` into a new model.

    Only that: optimisers, learning rate and exploration start anew, as do replay buffer, learned
    entropy weight and statistics of rewards, which are of other dreams. Nothing is unpickled.

    Args:
        model: new.
        card: of the training that begins.

    Raises:
        ConfigError: that agent has another algorithm or network, or sees something else.
    """
    assert card.initial_agent is not None
    folder = Path(card.initial_agent)
    earlier = AgentCard.load(folder)
    for name in ("algorithm", "observation", "latent_network", "frame_stack"):
        old, new = getattr(earlier.agent, name), getattr(card.agent, name)
        if old != new:
            raise ConfigError(
                f"initial_agent={folder} has agent.{name}={old}, this training {new}: an agent "
                "goes on as what it is"
            )
    same = earlier.shares_latents(card.world_sha256, card.latents_sha256)
    if card.agent.observation == "latents" and not same:
        raise ConfigError(
            f"initial_agent={folder} sees latents of another codec, or of this one before it "
            "changed, and they mean something there only: use agents on frames"
        )
    try:
        _, found, _ = load_from_zip_file(folder / WEIGHTS, device=model.device, load_data=False)
        network: Any = found["policy"]  # a mapping of tensors, which Stable-Baselines3 calls one
        model.policy.load_state_dict(network)
    except (ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"initial_agent={folder} is built otherwise than this training's agent: {error}"
        ) from error
