"""Inputs of the training steps: networks, latents, real portraits, and the parts of a batch."""

from collections.abc import Callable, Sequence
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
    """The trained networks."""

    generator: Generator
    discriminator: Discriminator
    semantic_discriminator: Discriminator


@dataclass(frozen=True)
class Latents:
    """Latents and cameras of generated images.

    Args:
        z: Standard normal, [B, z_dim].
        camera: Cameras sampled from the dataset, [B, 25]: the viewpoints, and the conditioning
            unless swapped.
        other_camera: Conditioning of swapped samples: the camera of the neighbour in the whole
            batch, [B, 25]; None uses the neighbour in this part.
    """

    z: Tensor
    camera: Tensor
    other_camera: Tensor | None = None


@dataclass(frozen=True)
class RealBatch:
    """Real portraits."""

    image: Tensor  # [B, 3, H, W] in [-1, 1]
    one_hot_mask: Tensor  # [B, K, H, W]
    camera: Tensor  # [B, 25]


@dataclass(frozen=True)
class StepContext:
    """Context shared by the steps of an iteration.

    Args:
        schedule: Current blur, resolution and pose swap probability.
        random: Random generators of the samples, on the training device; None for steps without
            random numbers.
        noise_mode: Backbone noise; training uses "random".
        depth_mode: Depth sampling; training uses "random".
        precision: Precision of backbone, super-resolutions and discriminators; all else is float32.
        scaler: Loss scaler for float16; disabled for other precisions.
        camera_noise: Standard deviation of noise on the discriminators' conditioning cameras,
            [25]; None adds none.
        augment: Augments images, raw images, masks and raw masks for the discriminators; None
            leaves them unchanged.
        interval: Iterations between steps of this kind; gradients are multiplied by it.
        share: Fraction of this part in the process's batch; gradients are multiplied by it.
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
        """Accumulate the gradients of a loss, scaled if there is a scaler."""
        total = total * self.interval * self.share
        (total if self.scaler is None else self.scaler.scale(total)).backward()


def draw_latents(
    z_dim: int,
    cameras: Tensor,  # [N, 25]
    random: BatchRandom,
    others: BatchRandom | None = None,
) -> Latents:
    """Sample normal latents and, for each, a camera of the dataset.

    Args:
        cameras: Camera labels of the dataset, on the device of `random`.
        random: Unused random generators of the samples.
        others: Unused random generators of each sample's neighbour; None sets no `other_camera`.
    """
    camera = _choose_cameras(cameras, random)
    return Latents(
        z=random.randn((len(random), z_dim)),
        camera=camera,
        other_camera=None if others is None else _choose_cameras(cameras, others),
    )


def _choose_cameras(cameras: Tensor, random: BatchRandom) -> Tensor:  # [B, 25]
    # Double precision, because float32 cannot index more than 2^24 cameras.
    draws = random.rand((len(random),), torch.float64)
    return cameras[(draws * len(cameras)).long()]


class Occasion(IntEnum):
    """Use of random numbers; part of their key, so the values must never change."""

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
    """Division of a batch among processes, and into parts for gradient accumulation.

    Part p of process r of R contains every (R * accumulation)-th sample, starting at p * R + r.
    Strides instead of blocks keep the groups of the discriminators' batch statistics together
    (spec 7), so results do not depend on the number of processes or on gradient accumulation.

    Args:
        batch_size: Samples in the whole batch, over all processes.
        accumulation: Parts per process.
        world: Rank of this process.
        options: Where the first two are among the options, for messages.

    Raises:
        UserError: If the batch cannot be divided evenly.
    """

    batch_size: int
    accumulation: int = 1
    world: World = World()
    options: str = "train"

    def __post_init__(self):
        if self.batch_size % self.num_units != 0:
            raise UserError(
                f"{self.options}.batch_size={self.batch_size}; use a multiple of {self.num_units}: "
                f"{self.world.size} processes times {self.options}.accumulation={self.accumulation}"
            )

    @property
    def num_units(self) -> int:
        """Number of parts of all processes."""
        return self.world.size * self.accumulation

    @property
    def process_batch_size(self) -> int:
        """Samples per process."""
        return self.batch_size // self.world.size

    @property
    def part_size(self) -> int:
        """Samples per part."""
        return self.batch_size // self.num_units

    def places(self, part: int) -> range:
        """Return the indices of a part's samples in the whole batch."""
        return range(part * self.world.size + self.world.rank, self.batch_size, self.num_units)

    def real(self, batch: RealBatch, part: int) -> RealBatch:
        """Return a part of this process's real portraits."""
        rows = slice(part, None, self.accumulation)
        return RealBatch(batch.image[rows], batch.one_hot_mask[rows], batch.camera[rows])

    def latents(
        self,
        key: Sequence[int],
        part: int,
        z_dim: int,
        cameras: Tensor,  # [N, 25]
    ) -> tuple[Latents, BatchRandom]:
        """Sample a part's latents; also return the generator of its further random numbers."""
        places = self.places(part)
        before = [(place - 1) % self.batch_size for place in places]
        random, others = (BatchRandom(key, of, cameras.device) for of in (places, before))
        return draw_latents(z_dim, cameras, random, others), random


def join_metrics(parts: Sequence[Metrics]) -> dict[str, Tensor]:
    """Concatenate the values that the parts logged under each name, [N]."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {n: torch.cat([part[n].flatten() for part in parts if n in part]) for n in names}
