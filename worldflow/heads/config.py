"""Which heads a world has, and their making."""

from __future__ import annotations

from dataclasses import dataclass

from worldflow.errors import ConfigError
from worldflow.heads.episode_memory import EpisodeTerminationHead
from worldflow.heads.reward import RewardHead
from worldflow.heads.termination import EPISODE, FRAME, READS, EndHead, TerminationHead


@dataclass
class HeadsConfig:
    """Which heads a world has.

    Attributes:
        hidden: width of each head's hidden layer.
        termination_reads: "frame": what is seen of the frame decides whether it is the last.
            "past": the end is a hazard of the past and the action. For games whose frames do not
            show what ends them, or show it in so few frames that the flow draws them too rarely:
            the hazard is right on average over the frames that can follow, whichever is drawn. Of
            guided dreams it is that without guidance. "episode": a hazard too, but of all of the
            episode, with features and a memory of its own: for games in which what ends them can
            be out of view for longer than the flow cares to remember. To be trained last and on
            clips as long as episodes, by `training.flow.part=end`.
        reward: whether rewards are predicted; null: pretraining decides, by whether the data have
            them.
        termination: the same of terminations.
    """

    hidden: int = 128
    termination_reads: str = FRAME
    reward: bool | None = True
    termination: bool | None = True

    def __post_init__(self) -> None:
        if self.termination_reads not in READS:
            raise ConfigError(
                f"heads.termination_reads is {self.termination_reads!r}; use one of "
                f"{', '.join(READS)}"
            )


def build_heads(
    config: HeadsConfig,
    tokens: int,
    widths: tuple[int, int],
    inputs: tuple[int, int],
    rewards: tuple[float, float],
) -> tuple[RewardHead | None, EndHead | None]:
    """The heads that a world has, for reward and termination.

    Args:
        config: which.
        tokens: N.
        widths: of the denoiser's features of a frame, and of the flow's of its past.
        inputs: channels of the latents, C, and size of a frame's conditioning vector, D.
        rewards: the smallest and the largest of the data.
    """
    reward: RewardHead | None = None
    termination: EndHead | None = None
    if config.reward:
        reward = RewardHead(tokens, widths[0], config.hidden, *rewards)
    if config.termination and config.termination_reads == EPISODE:
        termination = EpisodeTerminationHead(tokens, *inputs, config.hidden)
    elif config.termination:
        reads = config.termination_reads
        termination = TerminationHead(tokens, widths, config.hidden, reads)
    return reward, termination
