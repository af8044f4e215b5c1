"""How a batch is divided among processes and parts, and the random numbers of each division."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from mate3d.errors import UserError
from torch_utils.batch_random import BatchRandom
from torch_utils.distributed import World
from training.losses.terms import Metrics
from training.step_inputs import Latents, RealBatch, draw_latents


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
