"""SSIM against values of scikit-image 0.26 and against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from worldflow.evaluation.ssim import ssim


def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    ramp = np.add.outer(np.arange(32) * 3, np.arange(48) * 2)[..., None] + np.array([0, 10, 40])
    smooth = np.clip(ramp, 0, 255).astype(np.uint8)
    rough = np.clip(ramp + rng.integers(-40, 41, ramp.shape), 0, 255).astype(np.uint8)
    grey = np.full_like(smooth, 128)
    return {"a": noise[0], "b": noise[1], "smooth": smooth, "rough": rough, "grey": grey}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        #                       data_range=255, channel_axis=-1)
        ("a", "b", 0.036261828977883624),
        ("smooth", "rough", 0.18101250385647707),
        ("smooth", "grey", 0.6253112244452478),
    ],
)
def test_ssim_is_that_of_scikit_image(first: str, second: str, expected: float) -> None:
    found = images()
    assert ssim(found[first], found[second]) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_flat_images_is_their_luminance() -> None:
    a, b = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))


def test_ssim_of_equal_images_is_one_and_it_broadcasts() -> None:
    a = images()["a"]
    found = ssim(np.stack([[a, 255 - a]] * 3), a[None, None])
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found[:, 0], 1.0)
    assert (found[:, 1] < 0).all()


def test_ssim_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(np.zeros((10, 64, 3), np.uint8), np.zeros((10, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        ssim(np.zeros((64, 64, 3)), np.zeros((64, 64, 3), np.uint8))
