"""`worldflow collect`: record episodes of a real environment, losslessly and reproducibly."""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.envs.policies import (
    Policy,
    PolicyConfig,
    describe_policy,
    load_agent,
    make_policy,
)
from worldflow.envs.sources import FrameSource, SourceConfig, make_source
from worldflow.errors import ConfigError

STATE = "{state}"  # in a caption, what the environment says


@dataclass
class CollectConfig:
    """What is recorded.

    Args:
        source: the real environment.
        steps: environment steps to record at least; the last episode is recorded to its end.
        seed: episode i depends on the seed and i alone.
        out: folder of the dataset; None: `runs/data/NAME`, after the environment's id.
        policy: what acts.
        caption: what each episode shows, in words; `{state}` stands for what the environment says
            of the episode at its end, if it has a property `caption`. None: nothing is said.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: a number is out of its range.
    """

    source: SourceConfig
    steps: int = 10_000
    seed: int = 0
    out: str | None = None
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    caption: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.seed < 0:
            raise ConfigError(
                f"steps must be 1 or more and seed 0 or more, got {self.steps} and {self.seed}"
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
        metadata = DatasetMetadata(
            source=asdict(config.source),
            action_spec=env.action_spec,
            frame_shape=env.frame_shape,
            fps=env.fps,
            seed=config.seed,
            collect={"policy": describe_policy(config.policy, agent), **settings},
        )
        writer = EpisodeWriter(folder, metadata)
        finished = _finished_steps(writer)
        done = min(sum(finished.values()), config.steps)
        progress = tqdm(total=config.steps, initial=done, unit="step", disable=not config.progress)
        with progress as bar:
            steps = index = 0
            while steps < config.steps:
                if index not in finished:
                    episode = record_episode(env, policy, config, index, bar)
                    writer.add(index, episode)
                    finished[index] = len(episode) - 1
                steps += finished[index]
                index += 1
    return EpisodeDataset(folder)


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


def _check_caption(config: CollectConfig, env: FrameSource) -> None:
    if config.caption is None:
        return
    if not config.caption.strip():
        raise ConfigError("caption is empty; write what the episodes show, or null")
    if STATE in config.caption and not hasattr(env.unwrapped, "caption"):
        raise ConfigError(
            f"caption={config.caption!r}, but {config.source.env_id} says nothing of its state; "
            f"leave out {STATE}"
        )


def _caption(config: CollectConfig, env: FrameSource) -> str | None:
    """Of the episode that has just ended."""
    if config.caption is None or STATE not in config.caption:
        return config.caption
    return config.caption.replace(STATE, str(getattr(env.unwrapped, "caption")))  # noqa: B009


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
