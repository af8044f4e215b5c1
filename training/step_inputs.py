"""What the training steps take: networks, latents, real portraits, and what holds for all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mate3d.generator import Generator
from mate3d.network.discriminator import Discriminator
from mate3d.network.layers import NoiseMode
from torch_utils.batch_random import BatchRandom
from training.optimization.precision import TrainingPrecision
from training.optimization.schedules import ScheduleValues


@dataclass
class Networks:
    """What is trained."""

    generator: Generator
    discriminator: Discriminator
    semantic_discriminator: Discriminator


@dataclass(frozen=True)
class Latents:
    """What images are generated from.

    Args:
        z: Standard normal, [B, z_dim].
        camera: Cameras drawn from the data set, [B, 25]; viewpoints, and conditioning but for
            swaps.
        other_camera: What conditions a swapped sample: the camera of its neighbour in the whole
            batch, of which this may be a part; None takes the neighbour here.
    """

    z: Tensor
    camera: Tensor
    other_camera: Tensor | None = None


@dataclass(frozen=True)
class RealBatch:
    """Real portraits.

    Args:
        image: [B, 3, H, W] in [-1, 1].
        one_hot_mask: [B, K, H, W].
        camera: [B, 25].
    """

    image: Tensor
    one_hot_mask: Tensor
    camera: Tensor


@dataclass(frozen=True)
class StepContext:
    """What holds for all steps of an iteration.

    Args:
        schedule: Blur, resolution and pose swap of this moment.
        random: Source of random numbers of the samples on the training device. None is for steps
            that draw nothing.
        noise_mode: Backbone noise; training takes "random".
        depth_mode: Depth sampling; training takes "random".
        precision: Of backbone, super-resolutions and discriminators; all else is float32.
        scaler: Keeps small gradients of float16 above zero; disabled for other precisions.
        camera_noise: Standard deviation of noise on the cameras that condition the discriminators,
            [25]; None for no noise.
        augment: Transforms images, raw images, masks and raw masks before any discriminator sees
            them; None leaves them as they are.
        interval: Iterations from one step of a kind to the next; gradients are multiplied by it.
        share: Of this part in the batch of the process, by which its gradients are weighted.
    """

    schedule: ScheduleValues
    random: BatchRandom | None = None
    noise_mode: NoiseMode = "random"
    depth_mode: Literal["fixed", "random"] = "random"
    precision: TrainingPrecision = TrainingPrecision()
    scaler: torch.amp.GradScaler | None = None
    camera_noise: Tensor | None = None
    augment: Callable[..., tuple[Tensor | None, ...]] | None = None
    interval: int = 1
    share: float = 1.0

    def backward(
        self,
        total: Tensor,  # scalar
    ) -> None:
        """Add the gradients of a loss, scaled if there is a scaler, to the weights' own."""
        total = total * self.interval * self.share
        (total if self.scaler is None else self.scaler.scale(total)).backward()


def draw_latents(
    z_dim: int,
    cameras: Tensor,  # [N, 25]
    random: BatchRandom,
    others: BatchRandom | None = None,
) -> Latents:
    """Draw normal latents and, for each, one of the data set's cameras.

    Args:
        z_dim: Width of latents.
        cameras: Of the data set, on the device of `random`.
        random: One source a sample, from which nothing was drawn yet.
        others: Those of each sample's neighbour, likewise; None leaves the neighbour open.
    """
    camera = _choose_cameras(cameras, random)
    return Latents(
        z=random.randn((len(random), z_dim)),
        camera=camera,
        other_camera=None if others is None else _choose_cameras(cameras, others),
    )


def _choose_cameras(cameras: Tensor, random: BatchRandom) -> Tensor:  # [B, 25]
    # In double precision, as there may be more cameras than single precision has numbers.
    draws = random.rand((len(random),), torch.float64)
    return cameras[(draws * len(cameras)).long()]
