"""Figures of frames, distances of Gaussians, and the band in which real video lies.

Of a frame, in grey levels, with the luma Y = 0.299 R + 0.587 G + 0.114 B:

    mean       of Y over the pixels
    contrast   standard deviation of Y over the pixels
    sharpness  root mean square over the inner pixels of the Laplacian: the sum of the four
               neighbours less four times the pixel

Of many frames: the mean of each over the frames; the share that is stranger than 99.9% of held-out
real frames; and the Fréchet distance of their features (a frame's latents under the flow world's
encoder, averaged over its tokens) to those of held-out real frames, both taken as Gaussians with
`RIDGE` added to each variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldflow.errors import DataError
from worldflow.novelty import novelty_of

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
IMAGE = ("mean", "contrast", "sharpness")
FRECHET, STRANGE = "Fréchet distance", "strange frames"
STATISTICS = (*IMAGE, FRECHET, STRANGE)
ONE_SIDED = (FRECHET, STRANGE)  # only larger is worse
RIDGE = 1e-3  # of latents, whose channels have unit variance
STRANGE_SHARE = 0.001  # of held-out real frames
CONFIDENCE = 0.95  # of the band: this share of groups of real frames lies within


def image_statistics(frames: np.ndarray) -> np.ndarray:
    """`IMAGE` of frames (..., H, W, 3) uint8: (..., 3) float32."""
    luma = frames.astype(np.float32) @ LUMA
    inner = luma[..., 1:-1, 1:-1]
    around = luma[..., :-2, 1:-1] + luma[..., 2:, 1:-1] + luma[..., 1:-1, :-2] + luma[..., 1:-1, 2:]
    laplacian = around - 4.0 * inner
    figures = (
        luma.mean(axis=(-2, -1), dtype=np.float64),
        luma.std(axis=(-2, -1), dtype=np.float64),
        np.sqrt(np.square(laplacian).mean(axis=(-2, -1), dtype=np.float64)),
    )
    return np.stack(figures, axis=-1).astype(np.float32)


@dataclass(frozen=True)
class Gaussian:
    """A mean (C,) and a covariance (C, C)."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """Of samples (n, C), n >= 2, with `RIDGE` added to the variances."""
        features = features.astype(np.float64)
        covariance = np.cov(features, rowvar=False).reshape(features.shape[1], -1)
        return cls(features.mean(axis=0), covariance + RIDGE * np.eye(len(covariance)))


def frechet(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2) (Dowson and Landau, 1982)."""
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(np.maximum(shared, 0.0)).sum()
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(np.square(a.mean - b.mean).sum() + traces - 2.0 * cross)


@dataclass(frozen=True)
class Frames:
    """What is kept of R rows of T frames.

    Attributes:
        image: `IMAGE`, (R, T, 3).
        features: (R, T, C).
        novelty: (R, T).
    """

    image: np.ndarray
    features: np.ndarray
    novelty: np.ndarray

    def figures(self, reference: Gaussian) -> dict[str, float]:
        """`STATISTICS` of all frames together."""
        means = self.image.reshape(-1, len(IMAGE)).mean(axis=0, dtype=np.float64)
        found = dict(zip(IMAGE, means.tolist(), strict=True))
        features = self.features.reshape(-1, self.features.shape[-1])
        strange = self.novelty > novelty_of(STRANGE_SHARE)
        return found | {
            FRECHET: frechet(Gaussian.of(features), reference),
            STRANGE: float(strange.mean()),
        }

    def cut(self, start: int, stop: int) -> Frames:
        """Frames `start` to `stop` (excluded) of each row."""
        return Frames(
            self.image[:, start:stop], self.features[:, start:stop], self.novelty[:, start:stop]
        )


def over_time(dream: Frames, second: int, reference: Gaussian) -> dict[str, list[float]]:
    """`STATISTICS` of each group of `second` steps; steps after the last whole one are left out."""
    starts = range(0, dream.novelty.shape[1] - second + 1, second)
    groups = [dream.cut(start, start + second).figures(reference) for start in starts]
    return {name: [group[name] for group in groups] for name in STATISTICS}


def real_groups(
    lengths: np.ndarray, rows: int, second: int, groups: int, seed: int
) -> dict[str, np.ndarray]:
    """Windows of real video that compare with a second of a dream.

    Args:
        lengths: real frames of each clip, (M,); clips with fewer than `second` are left out.
        rows: windows of a group, each of a clip of its own where there are enough.
        second: consecutive frames of a window.
        groups: how many to draw.
        seed: of the draw.

    Returns:
        indices (groups, rows, second) of `clips` and of `frames`.

    Raises:
        DataError: no clip is long enough.
    """
    long = np.flatnonzero(lengths >= second)
    if not len(long):
        raise DataError(
            f"none of {len(lengths)} held-out clips has a second of {second} frames after the "
            "given ones; give data with longer episodes"
        )
    rng = np.random.default_rng(seed)
    replace = len(long) < rows
    clips = np.stack([rng.choice(long, rows, replace=replace) for _ in range(groups)])
    starts = rng.integers(0, lengths[clips] - second + 1)
    frames = starts[..., None] + np.arange(second)
    return {"clips": np.broadcast_to(clips[..., None], frames.shape), "frames": frames}


def group_figures(
    real: Frames, index: dict[str, np.ndarray], reference: Gaussian
) -> dict[str, list[float]]:
    """`STATISTICS` of each group of `real_groups`."""
    groups = []
    for at in zip(index["clips"], index["frames"], strict=True):
        group = Frames(real.image[at], real.features[at], real.novelty[at])
        groups.append(group.figures(reference))
    return {name: [group[name] for group in groups] for name in STATISTICS}


def band(groups: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    """In which `CONFIDENCE` of the groups of real frames lie, of each of `STATISTICS`."""
    tail, edges = (1.0 - CONFIDENCE) / 2.0, {}
    for name, values in groups.items():
        shares = [0.0, CONFIDENCE] if name in ONE_SIDED else [tail, 1.0 - tail]
        low, high = np.quantile(values, shares)
        edges[name] = float(low), float(high)
    return edges


def beyond(values: list[float], edges: tuple[float, float], one_sided: bool) -> np.ndarray:
    """How far values lie outside a band, as a share of the nearer edge; 0 inside: (n,).

    An edge that is not positive has no shares: what lies beyond it is infinitely far.
    """
    found, (low, high) = np.array(values), edges
    above = _share(found - high, high)
    return above if one_sided else np.maximum(above, _share(low - found, low))


def _share(outside: np.ndarray, edge: float) -> np.ndarray:
    outside = np.maximum(outside, 0.0)
    return outside / edge if edge > 0 else np.where(outside > 0, np.inf, 0.0)
