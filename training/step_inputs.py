"""What the training steps take: networks, latents, real portraits, the parts of a batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor

from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.network.discriminator import Discriminator
from mate3d.network.layers import NoiseMode
from torch_utils.batch_random import BatchRandom
from torch_utils.distributed import World
from training.losses.terms import Metrics
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


class Occasion(IntEnum):
    """What random numbers are drawn for; part of their key, so the numbers must not change."""

    GENERATOR = 0
    DENSITY = 1
    DISCRIMINATOR = 2
    R1 = 3
    SEMANTIC_DISCRIMINATOR = 4
    SEMANTIC_R1 = 5
    SPHERE = 6
    GRID = 7
    OTHER = 8


@dataclass(frozen=True)
class BatchParts:
    """The samples of a whole batch that this process trains, in parts one after the other.

    Part p of process r of R takes every (R * accumulation)-th sample, from number p * R + r on.
    Strides instead of blocks keep the groups of the discriminators' batch statistics together
    (spec 7), so that one process with the whole batch and many with parts train alike.

    Args:
        batch_size: Samples of the whole batch, over all processes.
        accumulation: Parts of each process.
        world: This process among all.

    Raises:
        UserError: If the batch cannot be divided evenly.
    """

    batch_size: int
    accumulation: int = 1
    world: World = World()

    def __post_init__(self):
        if self.batch_size % self.num_units != 0:
            raise UserError(
                f"train.batch_size={self.batch_size} must be a multiple of {self.num_units}: "
                f"{self.world.size} processes times train.accumulation={self.accumulation}"
            )

    @property
    def num_units(self) -> int:
        """Parts of all processes."""
        return self.world.size * self.accumulation

    @property
    def process_batch_size(self) -> int:
        """Samples of this process."""
        return self.batch_size // self.world.size

    @property
    def part_size(self) -> int:
        """Samples of a part."""
        return self.batch_size // self.num_units

    def places(self, part: int) -> range:
        """Return the numbers in the whole batch of a part's samples."""
        return range(part * self.world.size + self.world.rank, self.batch_size, self.num_units)

    def real(self, batch: RealBatch, part: int) -> RealBatch:
        """Return a part of this process's real portraits, every R-th of the whole batch."""
        rows = slice(part, None, self.accumulation)
        return RealBatch(batch.image[rows], batch.one_hot_mask[rows], batch.camera[rows])

    def latents(
        self,
        key: Sequence[int],
        part: int,
        z_dim: int,
        cameras: Tensor,  # [N, 25]
    ) -> tuple[Latents, BatchRandom]:
        """Draw a part's latents; return what its further random numbers come from, too."""
        places = self.places(part)
        before = [(place - 1) % self.batch_size for place in places]
        random, others = (BatchRandom(key, of, cameras.device) for of in (places, before))
        return draw_latents(z_dim, cameras, random, others), random


def join_metrics(parts: Sequence[Metrics]) -> dict[str, Tensor]:
    """Return all values that the parts logged under each name, [N]."""
    values: Mapping[str, list[Tensor]] = {name: [] for part in parts for name in part}
    for part in parts:
        for name, value in part.items():
            values[name].append(value.flatten())
    return {name: torch.cat(pieces) for name, pieces in values.items()}
