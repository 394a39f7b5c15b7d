"""Batched rollouts inside a world model: the engine under every imagined environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gymnasium.error
import numpy as np
import torch

from worldflow.compiled import compile_step
from worldflow.envs.reset_batches import reset_batches
from worldflow.envs.spaces import observation_space
from worldflow.envs.starts import Beginnings, Start
from worldflow.envs.transition import Transition, no_scores
from worldflow.errors import ConfigError, DataError
from worldflow.novelty import RunningNovelty
from worldflow.randomness import generator_of
from worldflow.storage import load_world
from worldflow.world_model import WorldModel
from worldflow.world_state import Prediction, WorldState


class Imagination:
    """B independent episodes, advanced together by one forward of the world.

    Each row draws its starting context and all noise from its own generator, and every step of the
    world runs on all B rows, whatever is needed of them. So a row's bits depend on its own seed,
    actions and resets, and on B, but never on what the other rows do; on a GPU up to rounding, see
    `worldflow.envs.reset_batches`.

    Args:
        world: a `WorldModel`, or the name or folder of one.
        num_envs: B.
        horizon: steps after which an episode is truncated.
        temperature: factor on the noise of every imagined frame; 1 is the model's distribution.
        observation: "frames", or "latents", with which no step runs the codec's decoder.
        novelty_window: the score `novelty` is that of so many last frames together.
        max_novelty: an episode is truncated where `novelty` is larger; None: never for this.
        start: how episodes begin; None: from the world's contexts.

    Attributes:
        observation_space: of one row.

    Raises:
        ValueError: an argument is out of range.
        WorldFormatError: the world cannot be loaded, lacks a head (MissingHeadError), or is not
            calibrated, which windows and limits of novelty need.
        ConfigError: no calibration for the window, or the world's denoiser looks ahead.
        DataError: its pretraining was not finished, so that it has no starting contexts.
    """

    def __init__(
        self,
        world: str | Path | WorldModel,
        num_envs: int,
        horizon: int = 1000,
        temperature: float = 1.0,
        observation: str = "frames",
        novelty_window: int = 1,
        max_novelty: float | None = None,
        start: Start | None = None,
    ) -> None:
        if num_envs < 1 or horizon < 1:
            raise ValueError(f"num_envs={num_envs} and horizon={horizon} must be at least 1")
        if not 0.0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be finite and not negative, got {temperature}")
        if max_novelty is not None and not max_novelty > 0.0:
            raise ValueError(f"max_novelty must be positive, got {max_novelty}")
        # a world that only this env uses can be compiled; a user's own may still be trained
        self.world = world if isinstance(world, WorldModel) else compile_step(load_world(world))
        self.num_envs, self.horizon, self.temperature = num_envs, horizon, temperature
        self.observation = observation
        self.observation_space = observation_space(self.world, observation)
        self.world.require_heads()
        if self.world.config.denoiser.lookahead:
            raise ConfigError(
                "this world's denoiser looks ahead (world.denoiser.lookahead=1), so that it cannot "
                "show a frame before the next one: `worldflow generate` can; train one with 0"
            )
        self._beginnings = Beginnings(self.world, start or Start())
        self._device = next(self.world.parameters()).device
        self._blocks = self.world.config.flow.local_blocks + 1
        self.needs_reset = np.ones(num_envs, dtype=bool)
        self.elapsed = np.zeros(num_envs, dtype=np.int64)
        self._generators: list[torch.Generator | None] = [None] * num_envs
        self._state: WorldState | None = None  # nobody else refers to it
        self._shown: np.ndarray | None = None  # what was observed last
        self.max_novelty = max_novelty
        self._running: RunningNovelty | None = None
        if novelty_window != 1 or max_novelty is not None:
            measure = self.world.calibration.require("dreamed")
            self._running = RunningNovelty(measure, novelty_window, num_envs)

    @property
    def started(self) -> bool:
        """Whether anything was reset yet."""
        return self._state is not None

    @property
    def num_contexts(self) -> int:
        """How many starting contexts there are; none where the first frame is dreamed."""
        return self._beginnings.count

    @property
    def frames(self) -> np.ndarray:
        """The frames now shown, (B, H, W, 3) uint8, decoded when they are asked for; a copy.

        Raises:
            ResetNeeded: nothing was reset yet.
        """
        if self._state is None or self._shown is None:
            raise gymnasium.error.ResetNeeded("call reset before asking for a frame")
        if self.observation == "frames":
            return self._shown.copy()
        return _copy(self.world.decode(self._state.latents))

    @torch.inference_mode()
    def reset(
        self,
        rows: np.ndarray | None = None,
        seeds: Sequence[int | None] | None = None,
        contexts: Sequence[int | None] | None = None,
    ) -> Transition:
        """Start new episodes in some rows; the others keep their state, bit for bit.

        Args:
            rows: (B,) bool, the rows to reset; all when None.
            seeds: B seeds; a row with None goes on with its own stream of random numbers.
            contexts: B indices of starting contexts; a row with None draws one.

        Returns:
            The observations after the reset; scores are NaN and iterations 0, also where a prompt
            had the first frame drawn.

        Raises:
            ValueError: a context index is out of range, or a list is not of length B.
        """
        rows = np.ones(self.num_envs, dtype=bool) if rows is None else rows
        seeds = self._per_row("seeds", seeds)
        contexts = self._per_row("contexts", contexts)
        for index in contexts:
            if index is not None and not 0 <= index < self.num_contexts:
                raise ValueError(
                    f"context {index} is not in 0..{self.num_contexts - 1}"
                    if self.num_contexts
                    else "the first frame is dreamed from the prompt: there are no contexts"
                )
        picks = np.zeros(self.num_envs, dtype=np.int64)
        generators: list[torch.Generator | None] = [None] * self.num_envs
        for row in np.flatnonzero(rows).tolist():
            generator = self._seed(row, seeds[row])
            # Drawn also where the caller chose, so that the noise that follows is the same.
            drawn = int(torch.randint(max(self.num_contexts, 1), (), generator=generator))
            chosen = contexts[row]
            picks[row] = drawn if chosen is None else chosen
            generators[row] = generator
            if self._running is not None:
                self._running.reset(row)
        for together in reset_batches(rows, self._device):
            fresh = self._beginnings.begin(
                picks[together], [generators[row] for row in together.tolist()], self.temperature
            )
            self._begin(together, np.flatnonzero(rows[together]), fresh)
        self.needs_reset = self.needs_reset & ~rows
        self.elapsed = np.where(rows, 0, self.elapsed)
        return self._resting()

    @torch.no_grad()
    def step(self, actions: np.ndarray, skip: np.ndarray | None = None) -> Transition:
        """Advance all rows but the skipped ones by one frame.

        Args:
            actions: (B, ...) as the world's `action_spec` says; ignored in skipped rows.
            skip: (B,) bool, rows that stay as they are and draw no random numbers.

        Returns:
            The transition; in skipped rows what they already show, reward 0, NaN scores.

        Raises:
            ResetNeeded: a row to be stepped has not been reset since its episode ended.
            ValueError: an action of a row to be stepped does not fit the action spec.
        """
        active = np.ones(self.num_envs, dtype=bool) if skip is None else ~skip
        checked = self._check(actions, active)
        waiting = np.flatnonzero(active & self.needs_reset)
        if self._state is None or len(waiting):
            raise gymnasium.error.ResetNeeded(
                f"call reset before step (rows {waiting.tolist()} have no running episode)"
            )
        if not active.any():
            return self._resting()
        generators = [g if on else None for g, on in zip(self._generators, active, strict=True)]
        state, prediction = self.world.step(
            self._state, self._tensor(checked), generators, self.temperature
        )
        shown = self._observe(state.latents)
        if not active.all():
            assert self._shown is not None
            state = WorldState.where(self._tensor(active), state, self._state)
            shown[~active] = self._shown[~active]
        self._state, self._shown = state, shown
        self.elapsed = self.elapsed + active
        # `require_heads` made sure of both.
        assert prediction.reward is not None and prediction.terminated is not None
        terminated = _copy(prediction.terminated) & active
        scores = self._scores(prediction, active)
        truncated = self.elapsed >= self.horizon
        if self.max_novelty is not None:
            truncated = truncated | (scores["novelty"] > self.max_novelty)
        truncated = truncated & active & ~terminated
        self.needs_reset = self.needs_reset | terminated | truncated
        return Transition(
            observations=shown.copy(),
            rewards=np.where(active, _copy(prediction.reward).astype(np.float64), 0.0),
            terminated=terminated,
            truncated=truncated,
            scores=scores,
        )

    def _observe(self, latents: torch.Tensor) -> np.ndarray:
        """What is seen of latents (n, N, C)."""
        return _copy(
            self.world.decode(latents) if self.observation == "frames" else latents.float()
        )

    def _begin(self, together: np.ndarray, wanted: np.ndarray, fresh: WorldState) -> None:
        """Let rows go on from others.

        Args:
            together: the rows of `fresh`.
            wanted: the indices in `together` of those that begin an episode.
            fresh: what they begin with.
        """
        seen = self._observe(fresh.latents)
        if self._state is None or self._shown is None:
            room = np.zeros(self.num_envs, dtype=np.int64)
            self._state, self._shown = fresh.rows(self._tensor(room)), seen[room]
        if len(wanted) < len(together):
            fresh, seen = fresh.rows(self._tensor(wanted)), seen[wanted]
        self._state.assign(self._tensor(together[wanted]), fresh)
        self._shown[together[wanted]] = seen

    def _seed(self, row: int, seed: int | None) -> torch.Generator:
        """The generator of a row, started anew when a seed is given or none was yet."""
        generator = self._generators[row]
        if generator is None or seed is not None:
            # Neighbouring seeds are hashed apart, and None takes entropy from the operating system.
            generator = self._generators[row] = generator_of(np.random.SeedSequence(seed))
        return generator

    def _per_row(self, name: str, values: Sequence[int | None] | None) -> Sequence[int | None]:
        values = [None] * self.num_envs if values is None else values
        if len(values) != self.num_envs:
            raise ValueError(f"{name} needs one entry a row: {self.num_envs}, got {len(values)}")
        return values

    def _check(self, actions: np.ndarray, active: np.ndarray) -> np.ndarray:
        """All B actions in the spec's dtype, zeros in rows that are not stepped."""
        spec = self.world.action_spec
        actions, shape = np.asarray(actions), (self.num_envs, *spec.shape)
        kinds = "iu" if spec.shape == () else "iuf"
        if actions.shape != shape or actions.dtype.kind not in kinds:
            raise ValueError(
                f"actions must be an array of shape {shape} and dtype {np.dtype(spec.dtype)}, "
                f"got shape {actions.shape} and dtype {actions.dtype}"
            )
        checked = np.zeros(shape, dtype=spec.dtype)
        try:
            checked[active] = spec.validate(actions[active])
        except DataError as error:
            raise ValueError(str(error)) from error
        return checked

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    def _resting(self) -> Transition:
        """A transition in which no row moved."""
        assert self._shown is not None
        none = np.zeros(self.num_envs, dtype=bool)
        rewards = np.zeros(self.num_envs)
        scores = no_scores(self.num_envs, self._blocks)
        return Transition(self._shown.copy(), rewards, none, none.copy(), scores)

    def _scores(self, prediction: Prediction, active: np.ndarray) -> dict[str, np.ndarray]:
        scores = no_scores(self.num_envs, self._blocks)
        for name, values in scores.items():
            values[active] = _copy(getattr(prediction, name))[active]
        if self._running is not None:
            novelty = self._running.add(prediction.statistics, active.tolist())
            scores["novelty"] = _copy(novelty.double())
        return scores


def _copy(tensor: torch.Tensor) -> np.ndarray:
    """A numpy copy that shares no memory with the tensor."""
    return tensor.cpu().numpy() if tensor.is_cuda else np.array(tensor.numpy())
