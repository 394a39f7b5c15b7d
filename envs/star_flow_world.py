"""`StarFlowWorld-v0`: a world model as a Gymnasium environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from worldflow.envs.imagination import Imagination
from worldflow.envs.rendering import Window
from worldflow.envs.spaces import action_space
from worldflow.envs.starts import Start
from worldflow.envs.transition import Transition
from worldflow.flow.guidance import Guidance
from worldflow.world_model import WorldModel

RENDER_MODES = ("rgb_array", "human")


class StarFlowWorldEnv(gym.Env[np.ndarray, Any]):
    """One imagined episode at a time; a batch of one of `Imagination`.

    Episodes start from contexts taken from held-out real episodes. An episode ends when the world
    says so (`terminated`) or after `horizon` steps (`truncated`).

    `info`, after `reset` and after `step`, holds for the frame just returned:

    - `log_likelihood`: nats, exact, of the frame under the world; a float.
    - `bits_per_dim`: the same as bits per latent dimension; a float.
    - `uncertainty`: nats, the entropy of the predicted frame; a float.
    - `novelty`: how rare such a frame would be among held-out ones, in standard deviations; a
      float, see docs/novelty.md.
    - `termination_probability`: with which it was drawn whether the episode ends; a float.
    - `jacobi_iterations`: (blocks,) int64, the sampler's passes in each block.
    - `sequential_fallbacks`: blocks that had to be inverted token by token, as the iteration gave
      numbers that are not finite; an int.

    After `reset` the frame is a real one as the world shows it, and was not drawn: the scores are
    NaN, the iterations 0.

    Args:
        world: the name or the folder of a world, or a `WorldModel`. Give the name or folder as a
            str where the env's `spec` is to be written as JSON (`env.spec.to_json()`), which can
            hold neither a `Path` nor a `WorldModel`.
        horizon: steps after which an episode is truncated.
        temperature: factor on the noise of every imagined frame; 1 is the model's distribution.
        render_mode: None, "rgb_array" or "human".
        observation: "frames", (H, W, 3) uint8, or "latents", their denoised latents (N, C) float32;
            with latents the codec's decoder runs only for what is rendered.
        novelty_window: `novelty` is that of so many last frames together.
        max_novelty: the episode is truncated where `novelty` is larger; None: never for this.
        initial_frames: an image, a video or (K, H, W, 3) uint8 from which every episode begins,
            instead of the world's contexts.
        prompt: what every episode is about, for worlds that learned from captions; without
            `initial_frames` its first frame is dreamed.
        guidance: weight of classifier-free guidance, see docs/text.md; 0 costs nothing.
        guidance_over: what it leads towards: "text", "actions" or "both".

    Raises:
        ValueError: an argument is out of range.
        WorldflowError: frames or prompt cannot be used, see `worldflow.envs.starts`.
        WorldFormatError: the world cannot be loaded, or is not calibrated for these limits.

    Examples:
        >>> import gymnasium as gym, worldflow
        >>> from worldflow.testing import tiny_world
        >>> env = gym.make("StarFlowWorld-v0", world=tiny_world(), horizon=20)
        >>> frame, info = env.reset(seed=0)
        >>> frame, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> sorted(info)[:4]
        ['bits_per_dim', 'jacobi_iterations', 'log_likelihood', 'novelty']
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it so
        "render_modes": list(RENDER_MODES),
        "render_fps": 15,
    }

    def __init__(
        self,
        world: str | Path | WorldModel,
        horizon: int = 1000,
        temperature: float = 1.0,
        render_mode: str | None = None,
        observation: str = "frames",
        novelty_window: int = 1,
        max_novelty: float | None = None,
        initial_frames: str | Path | np.ndarray | None = None,
        prompt: str | None = None,
        guidance: float = 0.0,
        guidance_over: str = "text",
    ) -> None:
        check_render_mode(render_mode)
        start = Start(initial_frames, prompt, Guidance(guidance, guidance_over))
        self.imagination = Imagination(
            world, 1, horizon, temperature, observation, novelty_window, max_novelty, start
        )
        self.render_mode = render_mode
        # A copy of the class's dictionary, since each world has its own rate.
        self.metadata = {**type(self).metadata, "render_fps": self.world.spec.fps}
        self.observation_space = self.imagination.observation_space
        self.action_space = action_space(self.world.action_spec)
        self._window: Window | None = None

    @property
    def world(self) -> WorldModel:
        """The world model that is played."""
        return self.imagination.world

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode, from one of the world's contexts unless the env was told otherwise.

        Args:
            seed: starts the env's stream of random numbers anew; None goes on with it.
            options: `{"context": index}` chooses the starting context instead of drawing it.

        Raises:
            ValueError: an unknown option, or an index out of range.
        """
        super().reset(seed=seed)
        options = check_options(options, {"context"})
        transition = self.imagination.reset(seeds=[seed], contexts=[options.get("context")])
        self._show()
        return transition.observations[0], _info(transition)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Imagine the next frame under `action`.

        Raises:
            ResetNeeded: no episode is running.
            ValueError: the action does not fit the action space.
        """
        transition = self.imagination.step(np.asarray(action)[None])
        self._show()
        return (
            transition.observations[0],
            float(transition.rewards[0]),
            bool(transition.terminated[0]),
            bool(transition.truncated[0]),
            _info(transition),
        )

    def render(self) -> np.ndarray | None:
        """The shown frame (H, W, 3) uint8 for "rgb_array"; "human" shows it and returns None.

        Raises:
            ResetNeeded: nothing was reset yet.
        """
        if self.render_mode is None:
            gym.logger.warn("render does nothing: the env was made without a render_mode")
            return None
        if self.render_mode == "human":
            self._show()
            return None
        return self.imagination.frames[0]

    def close(self) -> None:
        """Close the window, if any."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _show(self) -> None:
        if self.render_mode != "human":
            return
        if self._window is None:
            self._window = Window("StarFlowWorld", self.world.spec.fps)
        self._window.show(self.imagination.frames[0])


def check_render_mode(render_mode: str | None) -> None:
    """Raises ValueError unless the mode is None or one of `RENDER_MODES`."""
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode must be None or one of {RENDER_MODES}, got {render_mode!r}")


def check_options(options: dict[str, Any] | None, known: set[str]) -> dict[str, Any]:
    """The reset options, or {}; raises ValueError naming any that is not in `known`."""
    unknown = set(options or {}) - known
    if unknown:
        raise ValueError(f"unknown reset options {sorted(unknown)}; known are {sorted(known)}")
    return dict(options or {})


def _info(transition: Transition) -> dict[str, Any]:
    """Row 0's scores: numbers, and the iterations as an array."""
    return {
        name: values[0].item() if values.ndim == 1 else values[0]
        for name, values in transition.scores.items()
    }
