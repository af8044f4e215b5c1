"""Division of a batch among processes, and into parts for gradient accumulation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.errors import UserError
from torch_utils.distributed import World


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


def join_metrics(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate the values that the parts logged under each name, [N]."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {n: torch.cat([part[n].flatten() for part in parts if n in part]) for n in names}
