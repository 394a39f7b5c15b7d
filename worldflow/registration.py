"""Gymnasium ids, registered by string so that no environment is imported before it is made."""

from __future__ import annotations

import gymnasium

# Ids, where they are, and steps after which Gymnasium truncates an episode.
SOURCES = {
    "worldflow/Catch-v0": ("worldflow.envs.sources.catch:CatchEnv", None),
    "worldflow/TakeCover-v0": ("worldflow.envs.sources.takecover:TakeCoverEnv", 525),
}


def register_envs() -> None:
    """Register the learned world and the real sources; a second call changes nothing."""
    if "StarFlowWorld-v0" in gymnasium.registry:
        return
    gymnasium.register(
        "StarFlowWorld-v0",
        entry_point="worldflow.envs.star_flow_world:StarFlowWorldEnv",
        vector_entry_point="worldflow.envs.vector:StarFlowWorldVectorEnv",
    )
    for env_id, (entry_point, limit) in SOURCES.items():
        gymnasium.register(env_id, entry_point=entry_point, max_episode_steps=limit)
