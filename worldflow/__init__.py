"""worldflow: a world learned from video by a causal normalizing flow, given back as an env.

import gymnasium as gym, worldflow
env = gym.make("StarFlowWorld-v0", world="catch")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

# In a checkout `envs/`, `agents/` and `configs/` lie beside this package, not inside it; they are
# nevertheless imported as `worldflow.envs` and so on, since a top-level `envs` would clash with the
# user's own folder of that name.
_root = Path(__file__).resolve().parent.parent
if all((_root / name / "__init__.py").is_file() for name in ("envs", "agents", "configs")):
    __path__.append(str(_root))

from worldflow.registration import register_envs  # noqa: E402

if TYPE_CHECKING:
    from worldflow.storage import load_world
    from worldflow.world_model import WorldModel

__version__ = "0.1.0"
__all__ = ["WorldModel", "__version__", "load_world"]

register_envs()


def __getattr__(name: str) -> Any:
    """`WorldModel` and `load_world` are imported when first used: torch takes seconds to load."""
    if name == "WorldModel":
        from worldflow.world_model import WorldModel

        return WorldModel
    if name == "load_world":
        from worldflow.storage import load_world

        return load_world
    raise AttributeError(f"module 'worldflow' has no attribute {name!r}")
