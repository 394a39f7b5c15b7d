"""`worldflow collect`: record episodes of a real environment, losslessly and reproducibly."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.envs.collect_workers import recorded_side_by_side
from worldflow.envs.policies import (
    Policy,
    describe_policy,
    load_agent,
    make_policy,
)
from worldflow.envs.policy_config import PolicyConfig
from worldflow.envs.sources import FrameSource, SourceConfig, make_source
from worldflow.errors import ConfigError

STATE = "{state}"  # in a caption, what the environment says
SAYS = ("caption", "mission")  # by which property, the first that it has


@dataclass
class CollectConfig:
    """What is recorded.

    Args:
        source: the real environment.
        steps: environment steps to record at least; the last episode is recorded to its end.
        seed: episode i depends on the seed and i alone.
        out: folder of the dataset; None: `runs/data/NAME`, after the environment's id.
        policy: what acts.
        workers: processes that record side by side; the dataset is the same.
        caption: what each episode shows, in words; `{state}` stands for what the environment says
            of the episode at its end, if it has a property `caption`, or what it asks for, if it
            has a `mission`, as MiniGrid does. None: nothing is said.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: a number is out of its range.
    """

    source: SourceConfig
    steps: int = 10_000
    seed: int = 0
    out: str | None = None
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    workers: int = 1
    caption: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.seed < 0 or self.workers < 1:
            raise ConfigError(
                f"steps={self.steps} and workers={self.workers} must be 1 or more, "
                f"seed={self.seed} 0 or more"
            )


def main(config: CollectConfig) -> None:
    """Record a dataset and say where it is. See `collect`."""
    dataset = collect(config)
    print(f"{dataset.folder}: {len(dataset)} episodes, {dataset.steps} steps")


def collect(config: CollectConfig) -> EpisodeDataset:
    """Record the fewest episodes 0, 1, 2, ... that hold `steps` steps together.

    The same settings give the same bytes. Episodes that are already in the folder are kept, so an
    interrupted run goes on where it stopped, and a finished one can be extended with more steps.

    Raises:
        ConfigError: the environment or the policy cannot be made.
        DataError: the folder holds data of other settings, or a damaged episode.
    """
    folder = output_folder(config)
    settings = {} if config.caption is None else {"caption": config.caption}
    with contextlib.closing(make_source(config.source)) as env:
        _check_caption(config, env)
        agent = load_agent(config.policy)
        policy = make_policy(config.policy, env.action_spec, env.frame_shape, agent)
        how = {"policy": describe_policy(config.policy, agent), **settings}
        metadata = metadata_of(env, config, how)
        record_episodes(env, policy, config, EpisodeWriter(folder, metadata))
    return EpisodeDataset(folder)


def metadata_of(env: FrameSource, config: CollectConfig, how: dict[str, Any]) -> DatasetMetadata:
    """What a dataset says of its episodes; `how` they were collected."""
    return DatasetMetadata(
        source=asdict(config.source),
        action_spec=env.action_spec,
        frame_shape=env.frame_shape,
        fps=env.fps,
        seed=config.seed,
        collect=how,
    )


def record_episodes(
    env: FrameSource, policy: Policy, config: CollectConfig, writer: EpisodeWriter, first: int = 0
) -> None:
    """Record the fewest episodes that hold `config.steps` steps together.

    Args:
        env: the real environment.
        policy: what acts.
        config: of it steps, seed, workers and progress count; workers make env and policy anew.
        writer: of the dataset; what it holds already is kept and counts.
        first: number of the first episode; those before it do not count.
    """
    finished = _finished_steps(writer)
    done = min(sum(steps for index, steps in finished.items() if index >= first), config.steps)
    missing = itertools.filterfalse(finished.__contains__, itertools.count(first))
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=config.steps, initial=done, unit="step", disable=not config.progress)
        )
        recorded: Iterator[tuple[int, Episode]]
        if config.workers == 1:
            recorded = ((i, record_episode(env, policy, config, i, bar)) for i in missing)
        else:
            recorded = stack.enter_context(
                contextlib.closing(
                    recorded_side_by_side(partial(_recorder, config), missing, config.workers)
                )
            )
        steps, index = 0, first
        while steps < config.steps:
            if index not in finished:
                index, episode = next(recorded)
                writer.add(index, episode)
                finished[index] = len(episode) - 1
                if config.workers > 1:  # a recorder in this process moves the bar step by step
                    bar.update(min(finished[index], config.steps - bar.n))
            steps += finished[index]
            index += 1


def output_folder(config: CollectConfig) -> Path:
    """Where the dataset goes: `out`, or else `runs/data/takecover` for `worldflow/TakeCover-v0`."""
    if config.out is not None:
        return Path(config.out)
    name = re.sub(r"-v\d+$", "", re.split("[/:]", config.source.env_id)[-1])
    return Path("runs") / "data" / name.lower()


def record_episode(
    env: FrameSource,
    policy: Policy,
    config: CollectConfig,
    index: int,
    bar: tqdm | None = None,
) -> Episode:
    """Episode number `index`, from its reset to its end."""
    for_env, for_policy = np.random.SeedSequence(config.seed, spawn_key=(index,)).spawn(2)
    seed = environment_seed(for_env)
    policy.begin(np.random.default_rng(for_policy))
    frame, _ = env.reset(seed=seed)
    spec = env.action_spec
    frames, actions = [frame], [np.zeros(spec.shape, spec.dtype)]
    rewards, ends = [0.0], [False]
    terminated = truncated = False
    while not (terminated or truncated):
        action = policy.act(frame)
        frame, reward, terminated, truncated, _ = env.step(action)
        frames.append(frame)
        actions.append(action)
        rewards.append(reward)
        ends.append(terminated)
        if bar is not None and bar.n < config.steps:
            bar.update()
    return Episode(
        frames=np.stack(frames),
        actions=np.stack(actions),
        rewards=np.array(rewards, np.float32),
        terminated=np.array(ends, np.bool_),
        known=np.ones(len(frames), np.bool_),
        seed=seed,
        truncated=truncated,
        caption=_caption(config, env),
    )


def _recorder(config: CollectConfig) -> Callable[[int], Episode]:
    """What records episodes in a process of its own, which closes its environment at its end."""
    env = make_source(config.source)
    agent = load_agent(config.policy)
    policy = make_policy(config.policy, env.action_spec, env.frame_shape, agent)
    return lambda index: record_episode(env, policy, config, index)


def _check_caption(config: CollectConfig, env: FrameSource) -> None:
    if config.caption is None:
        return
    if not config.caption.strip():
        raise ConfigError("caption is empty; write what the episodes show, or null")
    if STATE in config.caption and not any(hasattr(env.unwrapped, name) for name in SAYS):
        raise ConfigError(
            f"caption={config.caption!r}, but {config.source.env_id} says nothing of its state; "
            f"leave out {STATE}"
        )


def _caption(config: CollectConfig, env: FrameSource) -> str | None:
    """Of the episode that has just ended."""
    if config.caption is None or STATE not in config.caption:
        return config.caption
    said = next(getattr(env.unwrapped, name) for name in SAYS if hasattr(env.unwrapped, name))
    return config.caption.replace(STATE, str(said))


def environment_seed(sequence: np.random.SeedSequence) -> int:
    """31 bits: some environments keep their seed in a signed 32-bit number."""
    return int(sequence.generate_state(1)[0] >> 1)


def _finished_steps(writer: EpisodeWriter) -> dict[int, int]:
    """Environment steps in each episode already on disk, by its index."""
    indices = writer.finished_indices()
    if not indices:
        return {}
    lengths = EpisodeDataset(writer.folder).lengths.tolist()
    return {index: length - 1 for index, length in zip(indices, lengths, strict=True)}
