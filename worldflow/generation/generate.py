"""`worldflow generate`: a video from a prompt, from an image, from a clip, or from nothing."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from torch import Tensor

from worldflow.data.metadata import write_atomically
from worldflow.data.resize import FITS
from worldflow.errors import ConfigError, DataError
from worldflow.flow.guidance import Guidance
from worldflow.generation.dreaming import DreamedVideo, Request, dream_video
from worldflow.generation.inputs import no_actions, read_actions, read_clip, read_image
from worldflow.generation.sheet import contact_sheet
from worldflow.pictures.strips import save_png
from worldflow.pictures.video import write_video
from worldflow.randomness import generator_of
from worldflow.storage import load_world
from worldflow.text.prompt import Nearest, read_prompt
from worldflow.world_model import WorldModel

VIDEO, SHEET, REPORT = "video.mp4", "sheet.png", "generated.json"
HEIGHT = 256  # pixels, at least, of the video


@dataclass
class GeneratingWorld:
    """Which world.

    Attributes:
        path: its name or folder.
    """

    path: str = MISSING


@dataclass
class GenerateConfig:
    """Settings of `worldflow generate`.

    Attributes:
        world: what dreams.
        prompt: what the video shows; null: not said. Only for worlds that learned from captions.
        encoder: name or folder of the prompt's encoder, if it was moved since the world learned
            with it; null: as the world says.
        image: a picture as the first frame.
        video: a clip that is continued.
        context: the last so many frames of the clip are given; null: as many as the world looks
            back on, if the clip has them.
        fit: how pictures of other proportions become square: "crop", "stretch" or "pad".
        actions: file with the actions, one before each frame but the first or one for each frame
            that is made; null: they are unknown to the world.
        length: frames of the video, the given ones included.
        seed: the same one gives the same video.
        temperature: factor on the noise of every frame; 1 is what the world learned.
        guidance: towards the prompt or the actions (`guidance=W` sets the weight).
        lookahead: 0 or 1: refuse a world whose denoiser does not look ahead so far; null: take it
            as it is.
        out: folder for the video, a contact sheet and what the world says of each frame; refused
            if it holds such a video already.
        progress: show a progress bar.
    """

    world: GeneratingWorld = field(default_factory=GeneratingWorld)
    prompt: str | None = None
    encoder: str | None = None
    image: str | None = None
    video: str | None = None
    context: int | None = None
    fit: str = "crop"
    actions: str | None = None
    length: int = 64
    seed: int = 0
    temperature: float = 1.0
    guidance: Guidance = field(default_factory=Guidance)
    lookahead: int | None = None
    out: str = MISSING
    progress: bool = True

    def __post_init__(self) -> None:
        if self.prompt is not None and not self.prompt.strip():
            raise ConfigError("prompt is empty; write what to show, or leave it out")
        if self.image is not None and self.video is not None:
            raise ConfigError("a video starts from image=... or from video=..., not from both")
        if self.context is not None and (self.video is None or self.context < 1):
            raise ConfigError(
                f"context={self.context} is the number of the last frames of video=... that are "
                "given, one or more"
            )
        if self.length < 1 or self.seed < 0:
            raise ConfigError(
                f"length={self.length} must be positive, seed={self.seed} not below 0"
            )
        if not (math.isfinite(self.temperature) and self.temperature >= 0.0):
            raise ConfigError(f"temperature is {self.temperature}; it must be finite, 0 or more")
        if self.fit not in FITS:
            raise ConfigError(f"fit is {self.fit!r}; use one of {', '.join(FITS)}")


def main(config: GenerateConfig) -> Path:
    """Write `video.mp4`, `sheet.png` and `generated.json` to `out`; returns the folder.

    Raises:
        ConfigError: settings that contradict each other or the world, or `out` holds a video.
        DataError: a file that cannot be read, or text for a world that knows none.
        WorldFormatError: the world cannot be loaded, or its encoder is another one.
    """
    if (Path(config.out) / REPORT).exists():
        raise ConfigError(f"{config.out} holds a generated video; choose another out=...")
    world = load_world(config.world.path, calibrated=False)
    own = world.config.denoiser.lookahead
    if config.lookahead not in (None, own):
        raise ConfigError(
            f"lookahead={config.lookahead}, but this world's denoiser learned with {own}; leave it "
            f"out, or pretrain a world with world.denoiser.lookahead={config.lookahead}"
        )
    text, nearest = None, None
    if config.prompt is not None:
        prompt = read_prompt(world.spec.text, config.prompt, config.encoder)
        text, nearest = prompt.vector, prompt.nearest
        if prompt.remark is not None:
            print(prompt.remark)
    request = request_of(config, world, text)
    generator = generator_of(np.random.SeedSequence(config.seed))
    dreamed = dream_video(world, request, [generator], config.progress)
    return _write(config, world, request, dreamed, nearest)


def request_of(config: GenerateConfig, world: WorldModel, text: Tensor | None) -> Request:
    """What the settings ask of the world, one video, on its device.

    Raises:
        DataError: a file that cannot be read or does not fit.
        ConfigError: guidance over what the world does not know, or is not told.
    """
    shape, spec = world.frame_shape, world.action_spec
    guidance = world.conditioning.check_guidance(config.guidance)
    frames = np.zeros((0, *shape), np.uint8)
    if config.image is not None:
        frames = read_image(config.image, shape, config.fit)
    elif config.video is not None:
        frames = read_clip(config.video, shape, config.fit, config.context or world.config.reach)
        if config.context is not None and len(frames) < config.context:
            raise DataError(
                f"{config.video}: {len(frames)} frames, fewer than context={config.context}; give "
                "a longer clip or a smaller context"
            )
    if config.actions is None:
        actions, known = no_actions(spec, config.length)
    else:
        actions, known = read_actions(config.actions, spec, config.length, len(frames))
    guidance.check_told(text is not None, bool(known.any()))
    device = world.conditioning.null.device
    start, led, are_known = (
        torch.from_numpy(array)[None].to(device) for array in (frames, actions, known)
    )
    text = None if text is None else text.to(device)
    return Request(start, led, are_known, text, guidance, config.temperature)


def _write(
    config: GenerateConfig,
    world: WorldModel,
    request: Request,
    dreamed: DreamedVideo,
    nearest: Nearest | None,
) -> Path:
    folder, given = Path(config.out), request.frames.shape[1]
    folder.mkdir(parents=True, exist_ok=True)
    frames = dreamed.frames[0].cpu().numpy()
    scale = 2 * -(-HEIGHT // (2 * frames.shape[1]))  # even, as H.264 needs
    write_video(folder / VIDEO, frames, world.spec.fps, scale)
    save_png(folder / SHEET, contact_sheet(frames, given))
    likelihood, bits = dreamed.log_likelihood[0].tolist(), dreamed.bits_per_dim[0].tolist()
    made = likelihood[given:]
    encoder = None
    if config.prompt is not None and world.spec.text is not None:
        encoder = config.encoder or world.spec.text.encoder
    report: dict[str, Any] = {
        "world": config.world.path,
        "prompt": config.prompt,
        "encoder": encoder,
        "nearest_caption": nearest and nearest._asdict(),
        "image": config.image,
        "video": config.video,
        "context": config.context,
        "fit": config.fit,
        "actions": config.actions,
        "seed": config.seed,
        "temperature": config.temperature,
        "guidance": {"weight": config.guidance.weight, "over": config.guidance.over},
        "given": given,
        "length": config.length,
        "fps": world.spec.fps,
        "log_likelihood_of_made": sum(made),
        "frames": [
            {"frame": t, "given": t < given, "log_likelihood": nats, "bits_per_dim": bit}
            for t, (nats, bit) in enumerate(zip(likelihood, bits, strict=True))
        ],
    }
    # at the end: a folder without it is of a run that was killed
    write_atomically(folder / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    print(
        f"{folder / VIDEO}: {config.length} frames, of which {given} given; log-likelihood "
        f"{sum(made):.1f} nats ({sum(made) / len(made):.1f} a frame, "
        f"{np.mean(bits[given:]):.3f} bits a latent); each frame's in {folder / REPORT}"
    )
    return folder
