"""A world that dreams the next frame by diffusion, given the last frames and actions.

As DIAMOND describes it (Alonso et al., 2024): pixels, EDM preconditioning, the last L frames in
the channels beside the noisy one, the L actions and the noise level by adaptive group norm, three
Euler steps. The frames that condition it are clean in training: the paper adds no noise to them.
It predicts no reward and no end.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from diffusion.edm import EdmConfig, Preconditioning, euler, levels
from diffusion.unet import UNet, UNetConfig
from worldflow.actions import ActionSpec
from worldflow.conditioning import Conditioning
from worldflow.data.frames import to_float, to_uint8
from worldflow.data.metadata import write_atomically
from worldflow.errors import ConfigError, DataError
from worldflow.randomness import Generators, normal
from worldflow.world_spec import HeldOut

FREQUENCIES = 64  # of the embedding of the noise level
WEIGHTS = "diffusion.safetensors"


@dataclass
class DiffusionConfig:
    """What a diffusion world is built of.

    Attributes:
        past: L, frames that condition the next one.
        action_width: size of the vector that an action becomes.
        edm: noise levels and sampler.
        unet: the network.
    """

    past: int = 4
    action_width: int = 64
    edm: EdmConfig = field(default_factory=EdmConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)

    def __post_init__(self) -> None:
        if self.past < 1 or self.action_width < 1:
            raise ConfigError(f"past={self.past}, action_width={self.action_width} must be > 0")


@dataclass(frozen=True)
class DiffusionSpec:
    """What a diffusion world learned from: kind of actions, (H, W, 3), what was held out."""

    action_spec: ActionSpec
    frame_shape: tuple[int, int, int]
    held_out: HeldOut


class DiffusionWorld(nn.Module):
    """p(frame | last L frames, the L actions up to it).

    Args:
        config: what it is built of.
        spec: what it learns from.
    """

    frequencies: Tensor

    def __init__(self, config: DiffusionConfig, spec: DiffusionSpec) -> None:
        super().__init__()
        height, width, _ = spec.frame_shape
        stride, size = config.unet.stride, config.unet.condition
        if height % stride or width % stride:
            raise ConfigError(
                f"frames of {height} x {width} do not divide by {stride}; change the number of "
                "unet.channels"
            )
        self.config, self.spec = config, spec
        self.actions = Conditioning(spec.action_spec, config.action_width)
        frequencies = math.tau * torch.randn(FREQUENCIES)
        self.register_buffer("frequencies", frequencies)
        self.noise_embedding = nn.Linear(2 * FREQUENCIES, size)
        self.action_embedding = nn.Linear(config.past * config.action_width, size)
        self.mix = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size))
        self.unet = UNet(config.unet, 3 * (config.past + 1), 3)
        for parameter in self.parameters():  # in which convolutions run several times faster
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def network(
        self, x: Tensor, noise: Tensor, past: Tensor, actions: Tensor, known: Tensor
    ) -> Tensor:
        """F: what is left to predict, see `diffusion.edm`.

        Args:
            x: c_in times the noisy frame, (B, 3, H, W).
            noise: c_noise, (B,).
            past: the last frames, oldest first, (B, L, 3, H, W) in [-1, 1].
            actions: (B, L, ...), the last of which led to the frame.
            known: (B, L) bool, whether there was such an action and it was recorded.
        """
        phases = noise[:, None] * self.frequencies
        level = self.noise_embedding(torch.cat((phases.cos(), phases.sin()), dim=1))
        taken = self.action_embedding(self.actions.embed(actions, known).flatten(1))
        stacked = torch.cat((past.flatten(1, 2), x), dim=1)
        stacked = stacked.contiguous(memory_format=torch.channels_last)
        return self.unet(stacked, self.mix(level + taken))

    def loss(
        self,
        frames: Tensor,
        past: Tensor,
        actions: Tensor,
        known: Tensor,
        log_sigma: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Mean squared error of F, which is EDM's weighted error of the denoised frame.

        Args:
            frames: (B, H, W, 3) uint8, to predict.
            past: (B, L, H, W, 3) uint8.
            actions: see `network`.
            known: see `network`.
            log_sigma: (B,) standard normal, of which the noise levels are made.
            noise: (B, 3, H, W) standard normal.
        """
        edm, clean = self.config.edm, to_float(frames)
        sigma = (edm.noise_mean + edm.noise_std * log_sigma).exp()
        c = Preconditioning.of(sigma[:, None, None, None], edm.sigma_data)
        noisy = clean + sigma[:, None, None, None] * noise
        made = self.network(c.inner * noisy, c.noise.flatten(), to_float(past), actions, known)
        return (made.float() - (clean - c.skip * noisy) / c.out).square().mean()

    @torch.inference_mode()
    def sample(
        self, past: Tensor, actions: Tensor, known: Tensor, generators: Generators
    ) -> Tensor:
        """Draw the next frames, (B, H, W, 3) uint8; arguments as those of `loss`."""
        edm, before = self.config.edm, to_float(past)
        sigmas = levels(edm)
        shape = (3, *past.shape[2:4])
        start = float(sigmas[0]) * normal(generators, len(past), shape, like=before)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            factors = Preconditioning.of(torch.tensor(sigma, dtype=torch.float64), edm.sigma_data)
            skip, out, inner, noise = (float(factor) for factor in factors)
            rows = x.new_full((len(x),), noise)
            return skip * x + out * self.network(inner * x, rows, before, actions, known)

        return to_uint8(euler(denoise, start, sigmas))

    @property
    def parameter_count(self) -> int:
        """Trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())


def save_diffusion(world: DiffusionWorld, folder: Path, training: dict[str, float]) -> None:
    """Write the weights, and in their file's header all that makes the world again.

    Args:
        world: to write.
        folder: that holds the file `WEIGHTS`.
        training: updates and seconds.
    """
    facts = {"config": asdict(world.config), "spec": asdict(world.spec), "training": training}
    tensors = {name: value.cpu().contiguous() for name, value in world.state_dict().items()}
    write_atomically(folder / WEIGHTS, save(tensors, {"diffusion": json.dumps(facts)}))


def load_diffusion(folder: str | Path) -> tuple[DiffusionWorld, dict[str, float]]:
    """The world that `save_diffusion` wrote, in eval mode on the CPU, and its `training`.

    Raises:
        DataError: there is none, or the file is damaged.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise DataError(f"{path} is missing; train a baseline: benchmarks/train_diffusion.py")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["diffusion"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        merged = OmegaConf.merge(OmegaConf.structured(DiffusionConfig), facts["config"])
        config, spec = OmegaConf.to_object(merged), facts["spec"]
        assert isinstance(config, DiffusionConfig)
        height, width, colours = spec["frame_shape"]
        action_spec = ActionSpec.from_dict(spec["action_spec"])
        made = DiffusionSpec(action_spec, (height, width, colours), HeldOut(**spec["held_out"]))
        with torch.random.fork_rng(devices=[]):  # initial weights, soon replaced, are random
            world = DiffusionWorld(config, made)
        world.load_state_dict(tensors)
    except (
        *(SafetensorError, OmegaConfBaseException),
        *(KeyError, TypeError, ValueError, RuntimeError),
    ) as error:
        raise DataError(f"{path} is damaged or of another version: {error}") from error
    return world.eval().requires_grad_(False), facts["training"]
