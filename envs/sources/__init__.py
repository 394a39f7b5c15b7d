"""Real environments as sources of video: `make_source` gives any of them one interface."""

from worldflow.envs.sources.gym_source import FrameSource, SourceConfig, make_source

__all__ = ["FrameSource", "SourceConfig", "make_source"]
