"""The charts of a run's report, from what the run logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from worldflow.calibration import QUANTILES, Calibration
from worldflow.pictures.plots import Points, line_chart
from worldflow.training.curves import Curve, thinned

MOST_POINTS = 400  # of a curve
PROFILES = 4  # measurements that are drawn frame by frame
POSITIONS = 6  # frames of a clip that are drawn over the run
POSITION = "/nll_position/"


@dataclass(frozen=True)
class Chart:
    """What one chart shows.

    Attributes:
        title: above it.
        unit: of the y axis.
        tags: name of a line to the tag that it shows; tags that were not logged are left out.
        logarithmic: whether the y axis is.
        level: name and height of a horizontal line.
    """

    title: str
    unit: str
    tags: Mapping[str, str]
    logarithmic: bool = False
    level: tuple[str, float] | None = None

    def svg(self, curves: Mapping[str, Curve]) -> str | None:
        """The chart over updates; None if nothing of it was logged."""
        lines: dict[str, Points] = {
            name: thinned(curves[tag], MOST_POINTS)
            for name, tag in self.tags.items()
            if tag in curves
        }
        if not lines:
            return None
        if self.level is not None:
            name, height = self.level
            steps = np.concatenate([np.asarray(x) for x, _ in lines.values()])
            lines[name] = ([steps.min(), steps.max()], [height, height])
        return line_chart(self.title, "update", self.unit, lines, self.logarithmic)


def codec_charts(codec: str) -> list[Chart]:
    """Of the codec, trained in the stage of that name."""
    return [
        Chart(
            "Codec: weighted error",
            "error",
            {"training": f"{codec}/{'reconstruction' if codec == 'joint' else 'loss'}"},
            logarithmic=True,
        ),
        Chart(
            "Codec: PSNR of held-out frames",
            "dB",
            {
                "all pixels": f"{codec}/held_out_psnr",
                "salient pixels": f"{codec}/held_out_psnr_salient",
            },
        ),
        Chart(
            "Codec: NLL of the pixels, given the latents",
            "nats a byte",
            {"training": f"{codec}/pixel_nll"},
        ),
    ]


def flow_charts(flow: str, floor: float, variance: float) -> list[Chart]:
    """Of flow, denoiser and heads, trained in the stage `flow`.

    Args:
        flow: name of the stage.
        floor: the least NLL there can be, nats a latent.
        variance: of the noise on the latents, which is the error of a denoiser that does nothing.
    """
    heads = ("reward", "termination")
    return [
        Chart(
            "Flow: NLL",
            "nats a latent",
            {
                "training": f"{flow}/nll",
                "held out": f"{flow}/held_out_nll",
                "held out, wrong actions": f"{flow}/held_out_nll_wrong_action",
            },
            level=("noise floor", floor),
        ),
        Chart(
            "Flow: NLL of wrong actions less that of the true ones",
            "nats a latent",
            {"held out": f"{flow}/held_out_action_gap"},
            level=("actions without effect", 0.0),
        ),
        Chart(
            "Bits of the pixels, an upper bound",
            "bits per dimension",
            {"held out": f"{flow}/held_out_pixel_bits"},
        ),
        Chart(
            "Denoiser: error of the flow's score",
            "squared error",
            {"training": f"{flow}/denoiser"},
            logarithmic=True,
        ),
        Chart(
            "Denoiser: error of denoised latents",
            "squared error",
            {"held out": f"{flow}/held_out_denoiser"},
            level=("not denoised", variance),
        ),
        Chart(
            "Heads: losses",
            "nats",
            {
                **{f"{name}, training": f"{flow}/{name}" for name in heads},
                **{f"{name}, held out": f"{flow}/held_out_{name}" for name in heads},
            },
            logarithmic=True,
        ),
    ]


def gradient_charts(curves: Mapping[str, Curve]) -> list[Chart]:
    """The norms of all gradients, one chart a stage."""
    start = "/gradient_norm/"
    stages = sorted({tag.split(start)[0] for tag in curves if start in tag})
    return [
        Chart(
            f"Gradient norms before clipping, stage {stage}",
            "norm",
            {tag.split(start)[1]: tag for tag in sorted(curves) if tag.startswith(stage + start)},
            logarithmic=True,
        )
        for stage in stages
    ]


def machine_charts(stages: list[str]) -> list[Chart]:
    """Of what TensorBoard alone has."""
    return [
        Chart(
            "Throughput of the updates",
            "frames a second",
            {f"stage {stage}": f"{stage}/frames_per_second" for stage in stages},
        ),
        Chart(
            "Most memory so far, of the main rank",
            "MiB",
            {
                **{f"stage {stage}": f"{stage}/memory_mib" for stage in stages},
                **{f"stage {stage}, CUDA": f"{stage}/cuda_memory_mib" for stage in stages},
            },
        ),
    ]


def position_charts(curves: Mapping[str, Curve], flow: str, floor: float) -> list[str]:
    """NLL of each frame of a held-out clip: by position, and over the run."""
    start = flow + POSITION
    positions = {tag: int(tag.removeprefix(start)) for tag in curves if tag.startswith(start)}
    tags = sorted(positions, key=positions.__getitem__)  # as text, 100 comes before 99
    steps = np.unique(np.concatenate([curves[tag][0] for tag in tags]))
    shown = steps[np.unique(np.linspace(0, len(steps) - 1, PROFILES).round().astype(int))]
    profiles: dict[str, Points] = {}
    for step in shown:
        at = {positions[tag]: curves[tag][1][curves[tag][0] == step] for tag in tags}
        found = {position: values[0] for position, values in at.items() if len(values)}
        profiles[f"update {step}"] = (list(found), list(found.values()))
    ends = [min(positions.values()), max(positions.values())]
    profiles["noise floor"] = (ends, [floor, floor])
    some = np.unique(np.linspace(0, len(tags) - 1, POSITIONS).round().astype(int))
    over_time = Chart(
        "NLL of single frames of a clip over the run",
        "nats a latent",
        {f"frame {positions[tags[k]]}": tags[k] for k in some},
    )
    svg = over_time.svg(curves)
    by_position = line_chart(
        "NLL of each frame of a held-out clip", "frame of the clip", "nats a latent", profiles
    )
    return [by_position, *([svg] if svg else [])]


def calibration_chart(calibration: Calibration) -> str:
    """The quantiles of held-out log-likelihoods against those of a normal distribution."""
    normal = [NormalDist().inv_cdf(level) for level in QUANTILES]
    measured = (np.array(calibration.quantiles) - calibration.mean) / calibration.std
    return line_chart(
        "Held-out log-likelihoods, quantile by quantile",
        "of a normal distribution, standard deviations",
        "measured, standard deviations",
        {"measured": (normal, measured), "normal": (normal, normal)},
    )
