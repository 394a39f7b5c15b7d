"""What tells the captions of a dataset apart, at one scale.

Sentence encoders put captions of one scene close together: under minilm "the ball falls on the
left" and "... on the right" have a cosine of 0.97, while another scene has one of 0.3. A world that
is given such vectors learns the scene first and its factors late.
"""

from __future__ import annotations

import torch
from torch import Tensor

# of the captions' variance: directions with less of it are damped, as with them the small
# differences by which paraphrases of one caption differ would grow too
SHRINKAGE = 0.01


def plain(width: int) -> tuple[Tensor, Tensor]:
    """The mean and the map that only bring unit vectors to components of unit variance."""
    return torch.zeros(width), width**0.5 * torch.eye(width)


def whitening(vectors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The mean m and the map A with which (x - m) A has all that tells captions apart at one scale.

    With the covariance C = V diag(c) V^T of the captions and e = `SHRINKAGE` tr C, this is the
    regularised whitening A = k V diag(sqrt(c) / (c + e)) V^T. Directions with c >> e get the
    variance k^2, those with c << e nearly none, and those in which no two captions differ, of which
    nothing can be learned, none at all. k makes the mean square of the E components 1.

    Args:
        vectors: of the captions, (N, E).
        weights: how often each counts, (N,), not negative, some positive.

    Returns:
        m (E,) and A (E, E), float32; those of `plain` where there is but one caption.
    """
    x, share = vectors.double(), weights.double() / weights.double().sum()
    mean = share @ x
    centred = share.sqrt()[:, None] * (x - mean)
    c, v = torch.linalg.eigh(centred.T @ centred)
    c = c.clamp(min=0.0)
    total, width = float(c.sum()), vectors.shape[1]
    if total < 1e-9:  # of unit vectors: rounding
        return plain(width)
    scales = c.sqrt() / (c + SHRINKAGE * total)
    k = (width / float((c * scales**2).sum())) ** 0.5
    return mean.float(), (k * (v * scales) @ v.T).float()
