"""What a run starts with: which heads its data can teach, and the weights of an earlier world."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace

from worldflow.config import flatten
from worldflow.data.metadata import DatasetMetadata
from worldflow.errors import ConfigError
from worldflow.storage import load_world
from worldflow.world_model import WorldModel
from worldflow.world_spec import HeldOut, WorldConfig

# They are made anew where the data differ from those of the earlier world.
HEADS = ("reward_head.", "termination_head.")
REPLACEABLE = ("conditioning.", *HEADS)
# Made anew if the earlier world has none: its frames had one outcome, which stays the first.
OUTCOMES = "flow.global_block.outcomes."


def with_heads(config: WorldConfig, metadata: DatasetMetadata) -> WorldConfig:
    """The config with those heads that were left open (null) decided by the data.

    Raises:
        ConfigError: a head is asked for that the data cannot teach.
    """
    heads = config.heads
    reward = _decided("reward", heads.reward, metadata.has_rewards)
    termination = _decided("termination", heads.termination, metadata.has_terminations)
    return replace(config, heads=replace(heads, reward=reward, termination=termination))


def _decided(name: str, wanted: bool | None, recorded: bool) -> bool:
    if wanted and not recorded:
        raise ConfigError(
            f"world.heads.{name}=true, but the data have no {name}s; use null or false"
        )
    return recorded if wanted is None else wanted


def start_from(world: WorldModel, path: str, whole: bool) -> list[str]:
    """Copy the weights of the world at `path`; its codec's as they are, the others' as a start.

    The embedding of actions is made anew if the actions are of another kind (a world of action-free
    video has none), that of text if another encoder gave it, and so is a head that it had not, or
    of other rewards, or read from something else. A world of plain frames may be given several
    outcomes, and one that is trained as a whole another window: a start, not the same function, as
    the frequencies of rotary positions follow the window.

    Where it seems to have learned from what is held out now, that is said in a warning.

    Args:
        world: that starts.
        path: name or folder of the earlier world.
        whole: whether the flow's past is trained too.

    Returns:
        the names of what was made anew.

    Raises:
        ConfigError: it is built otherwise.
        WorldFormatError: it cannot be loaded.
    """
    earlier = load_world(path)
    if (remark := other_split(earlier.spec.held_out, world.spec.held_out)) is not None:
        warnings.warn(f"from={path}: {remark}", stacklevel=2)
    old, new = earlier.state_dict(), world.state_dict()
    if earlier.spec.reward_range != world.spec.reward_range:
        old = {name: value for name, value in old.items() if not name.startswith("reward_head.")}
    if earlier.config.heads.termination_reads != world.config.heads.termination_reads:
        old = {n: value for n, value in old.items() if not n.startswith("termination_head.")}
    if earlier.action_spec != world.action_spec:
        kept = ("conditioning.null", "conditioning.mlp.", "conditioning.text_")
        old = {
            name: value
            for name, value in old.items()
            if not name.startswith("conditioning.") or name.startswith(kept)
        }
    if _encoder(earlier) != _encoder(world):
        old = {n: value for n, value in old.items() if not n.startswith("conditioning.text_")}
    fresh: tuple[str, ...] = REPLACEABLE
    if earlier.config.flow.global_block.outcomes == 1:
        fresh += (OUTCOMES,)
    missing = [n for n in new if n not in old and not n.startswith(fresh)]
    odd = [n for n in old if n not in new and not n.startswith(REPLACEABLE)]
    odd += [n for n in old if n in new and old[n].shape != new[n].shape]
    odd += _changed(earlier.config, world.config, whole)
    if missing or odd:
        raise ConfigError(
            f"the world {path} is built otherwise ({', '.join((missing + odd)[:3])}); give its "
            "settings: world=... as in its config.yaml"
        )
    world.load_state_dict({**new, **{name: old[name] for name in old if name in new}})
    return [name for name in new if name not in old]


def other_split(before: HeldOut, now: HeldOut) -> str | None:
    """What to say where an earlier world seems to have learned from what is held out now.

    Args:
        before: of the earlier world.
        now: of the world that starts from it.

    Returns:
        a sentence; None where the data are others, or split as they were.
    """
    if before.episodes != now.episodes or before.frames not in (None, now.frames):
        return None
    if (before.fraction, before.seed, before.growing) == (now.fraction, now.seed, now.growing):
        return None
    return (
        "it learned from as many episodes and frames, split otherwise "
        f"(data.held_out={before.fraction} training.seed={before.seed} "
        f"growing={str(before.growing).lower()}): if they are these, it knows most of the episodes "
        "that are held out now, and what is measured on them is too good"
    )


def _changed(before: WorldConfig, after: WorldConfig, whole: bool) -> list[str]:
    """Settings in which the same weights would mean something else."""
    old, new = flatten(asdict(before)), flatten(asdict(after))
    free: tuple[str, ...] = ("context", "heads.", "flow.sampler.", "flow.global_block.outcomes")
    if whole:  # its rotary positions are of other frequencies, which attention can learn again
        free += ("flow.window",)
    changed = (name for name in old | new if old.get(name) != new.get(name))
    return [name for name in changed if not name.startswith(free)]


def _encoder(world: WorldModel) -> str | None:
    return None if world.spec.text is None else world.spec.text.digest
