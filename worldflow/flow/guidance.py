"""Classifier-free guidance of a flow: the only place where its formula stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from worldflow.errors import ConfigError
from worldflow.flow.affine import Affine

TARGETS = ("text", "actions", "both")


@dataclass
class Guidance:
    """How far a dream is driven towards what it is conditioned on.

    Attributes:
        weight: w of `guide` and `guide_choice`; 0: not at all, at no cost. Others read the past
            twice a step.
        over: what the unconditional side is not told: "text", "actions" or "both".
    """

    weight: float = 0.0
    over: str = "text"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0.0):
            raise ConfigError(f"guidance is {self.weight}; it must be finite and not negative")
        if self.over not in TARGETS:
            raise ConfigError(f"guidance.over is {self.over!r}; use one of {', '.join(TARGETS)}")

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return self.weight > 0.0

    def check_told(self, text: bool, actions: bool) -> None:
        """Refuse to lead a dream towards what it is not told.

        Args:
            text: whether it is told a text.
            actions: whether it is told actions.

        Raises:
            ConfigError: nothing that the guidance is over.
        """
        if self.active and not ((self.hides_text and text) or (self.hides_actions and actions)):
            needed = {"text": "a prompt", "actions": "actions", "both": "a prompt or actions"}
            raise ConfigError(
                f"guidance={self.weight:g} over {self.over} leads towards {needed[self.over]}, and "
                "there is nothing of it here; give it, or leave the guidance out"
            )

    @property
    def hides_text(self) -> bool:
        """Whether the unconditional side sees no text."""
        return self.over in ("text", "both")

    @property
    def hides_actions(self) -> bool:
        """Whether the unconditional side sees no actions."""
        return self.over in ("actions", "both")


class Unconditional(NamedTuple):
    """The other side of guidance for one frame.

    Attributes:
        condition: with text or actions hidden, (B, D).
        weight: w.
    """

    condition: Tensor
    weight: float


def guide(conditional: Affine, unconditional: Affine, weight: float) -> Affine:
    """The map whose density is p_c^(1 + w) / p_u^w, normalised (as in STARFlow, 2506.06276).

    Given the tokens before, each channel is normal: p_c = N(mu_c, s_c^2), p_u = N(mu_u, s_u^2). The
    logarithm of the product is quadratic, so the product is normal too. Its precision and mean,
    with r = s_c^2 / s_u^2, follow by comparing coefficients:

        1 / s^2 = (1 + w) / s_c^2 - w / s_u^2 = (1 + w (1 - r)) / s_c^2
        mu / s^2 = (1 + w) mu_c / s_c^2 - w mu_u / s_u^2
        mu = mu_c + w r / (1 + w (1 - r)) (mu_c - mu_u)

    Where the condition makes the prediction surer (r <= 1) the precision is positive for every
    w >= 0: s falls from s_c towards 0, and mu moves by at most r / (1 - r) times the difference.
    Where it makes it less sure (r > 1), the precision would reach zero at w = 1 / (r - 1), and
    beyond there is no such density: the product grows without bound. There p_u is taken as wide as
    p_c, r = 1, at which the two cases meet: s = s_c, mu = mu_c + w (mu_c - mu_u). So there is no
    negative variance at any weight, and s <= s_c always.

    Args:
        conditional: with text and actions.
        unconditional: without what is guided over; of the same tokens before.
        weight: w >= 0; 0 gives the conditional map.
    """
    log_ratio = 2.0 * (conditional.log_scale - unconditional.log_scale)
    ratio = log_ratio.clamp(max=0.0).exp()
    precision = 1.0 + weight * (1.0 - ratio)  # times s_c^2; at least 1
    shift = weight * ratio / precision
    mu = conditional.mu + shift * (conditional.mu - unconditional.mu)
    return Affine(mu, conditional.log_scale - 0.5 * torch.log(precision))


def guide_choice(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """The same of a choice between outcomes: log of p_c(k)^(1 + w) / p_u(k)^w, normalised.

    Which outcome a token has (`worldflow.flow.outcomes`) is drawn before the token, so it is one
    more step of the order in which all is drawn. Each step is guided and normalised given those
    before, so this is not the power of the joint density, in which an outcome would also weigh by
    the normaliser of its token's product. Outcome k must be the same kind of thing on both sides,
    which it is: one network gives both.

    Args:
        conditional: log p_c(k), (..., K).
        unconditional: log p_u(k), (..., K).
        weight: w >= 0; 0 gives the conditional one.
    """
    return F.log_softmax(conditional + weight * (conditional - unconditional), dim=-1)
