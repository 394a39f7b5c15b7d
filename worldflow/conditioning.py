"""Action and text, as the vector that conditions the model at a frame."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from worldflow.actions import ActionSpec
from worldflow.errors import ConfigError, DataError
from worldflow.flow.guidance import Guidance
from worldflow.text.spec import TextSpec
from worldflow.text.whitening import plain, whitening


class Conditioning(nn.Module):
    """Embeds actions (B, T, ...) to (B, T, D); the first frame of a sequence has no action.

    Discrete actions have a table, boxes are scaled to [-1, 1] and projected. "none" and an action
    that is not known are the same learned vector as that of a first frame.

    A world that knows text adds a vector of its projected embedding, the same in every frame, or a
    learned one where there is no text: a row of zeros, which no text is encoded as. Embeddings are
    whitened first, by what the captions of the data are (`whiten`).

    Args:
        spec: the kind and limits of the actions.
        width: D.
        text: how texts were encoded; None: there are none.
        knows_unknown: whether it learned what actions are that are not known; None: nobody knows.
    """

    low: Tensor
    high: Tensor
    text_mean: Tensor
    text_whitening: Tensor

    def __init__(
        self,
        spec: ActionSpec,
        width: int,
        text: TextSpec | None = None,
        knows_unknown: bool | None = None,
    ) -> None:
        super().__init__()
        self._knows_unknown = knows_unknown
        self.spec, self.width, self.text = spec, width, text
        self.null = nn.Parameter(torch.randn(width))
        if spec.kind == "discrete":
            self.table = nn.Embedding(spec.n, width)
        elif spec.kind == "box":
            self.projection = nn.Linear(len(spec.low), width)
        self.register_buffer("low", torch.tensor(spec.low), persistent=False)
        self.register_buffer("high", torch.tensor(spec.high), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        if text is not None:
            self.text_projection = nn.Linear(text.width, width)
            self.text_null = nn.Parameter(torch.randn(width))
            mean, matrix = plain(text.width)
            self.register_buffer("text_mean", mean)
            self.register_buffer("text_whitening", matrix)

    def whiten(self, texts: Tensor, weights: Tensor) -> None:
        """Bring what tells captions apart to one scale, see `worldflow.text.whitening`.

        Args:
            texts: captions that the world will learn from, (N, E); rows of zeros do not count.
            weights: how often each is seen, (N,).

        Raises:
            DataError: there is no caption among them, or the world knows no text.
        """
        given = texts.any(dim=1)
        if self.text is None or not given.any():
            raise DataError("there are no captions by which text could be whitened")
        mean, matrix = whitening(texts[given], weights[given])
        self.text_mean.copy_(mean)
        self.text_whitening.copy_(matrix)

    def forward(
        self, actions: Tensor, known: Tensor | None = None, text: Tensor | None = None
    ) -> Tensor:
        """Whole sequences: `actions[:, t]` led to frame t; `actions[:, 0]` is not used.

        Args:
            actions: (B, T, ...).
            known: (B, T) bool, whether the action was recorded; None: all were.
            text: (B, E), zeros where there is none; None: there is none at all.
        """
        embedded = self.embed(actions, known, None if text is None else text[:, None])
        first = self.initial(len(actions), text)[:, None]
        return torch.cat((first, embedded[:, 1:]), dim=1)

    def initial(self, batch: int, text: Tensor | None = None) -> Tensor:
        """The condition of a first frame: (B, D)."""
        return self.mlp(self._with_text(self.null, text)).expand(batch, -1)

    def embed(
        self, actions: Tensor, known: Tensor | None = None, text: Tensor | None = None
    ) -> Tensor:
        """Actions (..., *spec.shape), known (...) or None for all, text (..., E), to (..., D)."""
        if self.spec.kind == "discrete":
            vector = self.table(actions)
        elif self.spec.kind == "box":
            unit = 2.0 * (actions - self.low) / (self.high - self.low) - 1.0
            vector = self.projection(unit)
        else:
            vector = self.null.expand(*actions.shape, -1)
        if known is not None and self.spec.kind != "none":
            vector = torch.where(known[..., None], vector, self.null)
        return self.mlp(self._with_text(vector, text))

    def texts(self, batch: int, text: Tensor | None) -> Tensor | None:
        """Texts (B, E), checked, as a copy; zeros for None. None where the world knows no text.

        Raises:
            DataError: text for a world that knows none, or of another shape.
        """
        if self.text is None:
            if text is None:
                return None
            raise DataError(
                "this world learned without captions; leave the text out, or pretrain with text=..."
            )
        shape = (batch, self.text.width)
        if text is None:
            return self.null.new_zeros(shape)
        if tuple(text.shape) != shape:
            raise DataError(f"text has shape {tuple(text.shape)}, needed is {shape}")
        return text.to(self.null, copy=True)

    def check_guidance(self, guidance: Guidance | None) -> Guidance:
        """The guidance, or none.

        Raises:
            ConfigError: it is over what the world does not know, or what was never hidden from it.
        """
        guidance = guidance or Guidance()
        for hidden, known, name in (
            (guidance.hides_text, self.text is not None, "text"),
            (guidance.hides_actions, self.spec.kind != "none", "actions"),
        ):
            if guidance.active and hidden and not known:
                raise ConfigError(
                    f"guidance.over={guidance.over}, but this world knows no {name}; choose what "
                    "it was trained on, or no guidance"
                )
        if guidance.active and guidance.hides_actions and self._knows_unknown is False:
            raise ConfigError(
                f"guidance.over={guidance.over}, but no action was hidden from this world when it "
                "learned; pretrain one with training.flow.action_dropout=0.1 (or training.joint's)"
            )
        return guidance

    def without(
        self, actions: Tensor, known: Tensor | None, text: Tensor | None, guidance: Guidance
    ) -> Tensor | None:
        """The conditions that guidance leads away from; None if there is no guidance.

        They are of a step (B, ...) or of whole sequences (B, T, ...), as `actions` are.
        """
        if not guidance.active:
            return None
        lead = actions.shape[: actions.ndim - len(self.spec.shape)]
        if guidance.hides_actions:
            known = torch.zeros(lead, dtype=torch.bool, device=actions.device)
        text = None if guidance.hides_text else text
        return (self if len(lead) == 2 else self.embed)(actions, known, text)

    def _with_text(self, vector: Tensor, text: Tensor | None) -> Tensor:
        if self.text is None:
            return vector
        if text is None:
            return vector + self.text_null
        projected = self.text_projection((text - self.text_mean) @ self.text_whitening)
        return vector + torch.where(text.any(dim=-1, keepdim=True), projected, self.text_null)


def wrong_actions(actions: Tensor, spec: ActionSpec, rng: np.random.Generator) -> Tensor:
    """Other actions than the true ones, of the same shape.

    Discrete: another choice, uniformly. Box: each dimension moved by a quarter to three quarters of
    its range, around the range's end.

    Raises:
        DataError: there is no other action, as there is only one or none.
    """
    shape = tuple(actions.shape)
    if spec.kind == "discrete" and spec.n > 1:
        return (actions + torch.from_numpy(rng.integers(1, spec.n, shape))) % spec.n
    if spec.kind == "box":
        low, high = torch.tensor(spec.low), torch.tensor(spec.high)
        moved = torch.from_numpy(rng.uniform(0.25, 0.75, shape).astype(np.float32))
        return low + ((actions - low) / (high - low) + moved) % 1.0 * (high - low)
    raise DataError(f"a {spec.kind} action with n={spec.n} has no wrong alternative")
