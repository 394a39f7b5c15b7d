"""Gymnasium environments: real sources of video, and the learned world as an environment."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldflow.envs.likelihood_info import LikelihoodInfo, VectorLikelihoodInfo
    from worldflow.envs.novelty_wrappers import (
        NoveltyReward,
        NoveltyTruncation,
        PessimisticReward,
    )
    from worldflow.envs.vector_novelty_wrappers import (
        VectorNoveltyReward,
        VectorNoveltyTruncation,
        VectorPessimisticReward,
    )

__all__ = [
    "LikelihoodInfo",
    "NoveltyReward",
    "NoveltyTruncation",
    "PessimisticReward",
    "VectorLikelihoodInfo",
    "VectorNoveltyReward",
    "VectorNoveltyTruncation",
    "VectorPessimisticReward",
]

_MODULES = {
    "LikelihoodInfo": "likelihood_info",
    "NoveltyReward": "novelty_wrappers",
    "NoveltyTruncation": "novelty_wrappers",
    "PessimisticReward": "novelty_wrappers",
    "VectorLikelihoodInfo": "likelihood_info",
    "VectorNoveltyReward": "vector_novelty_wrappers",
    "VectorNoveltyTruncation": "vector_novelty_wrappers",
    "VectorPessimisticReward": "vector_novelty_wrappers",
}


def __getattr__(name: str) -> Any:
    """The wrappers are imported when first used: real environments do without torch."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
