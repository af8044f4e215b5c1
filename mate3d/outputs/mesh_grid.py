"""Distances on a regular grid over the box, ready for marching cubes; evaluated where needed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import maximum_filter, minimum_filter
from torch import Tensor

from mate3d.errors import UserError

# Global or class distances at points, [1, N, 3] -> [1, N, 1].
Distance = Callable[[Tensor], Tensor]
Evaluation = Literal["auto", "dense"]

# No vertex comes closer to a grid point than this share of the spacing. Vertices that fall
# together would make faces without area, and programs that merge them on loading open the mesh.
VERTEX_MARGIN = 1e-3
_CHUNK_POINTS = 65536
_BLOCK_SIDE = 4
_BLOCKS_A_CHUNK = _CHUNK_POINTS // _BLOCK_SIDE**3
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Grid:
    """Points on a regular grid; the outermost lie on the faces of the box.

    Args:
        box_size: Side of the box, centred at the origin, world units.
        resolution: Points a side.
        device: Where points are made.
    """

    box_size: float
    resolution: int
    device: torch.device

    @property
    def spacing(self) -> float:
        """Distance between neighbouring points, world units."""
        return self.box_size / (self.resolution - 1)

    def points(
        self,
        index: np.ndarray,  # [..., 3] integer
    ) -> Tensor:  # [1, N, 3], world
        """Return grid points by their indices along x, y and z."""
        half = self.box_size / 2
        axis = np.linspace(-half, half, self.resolution).astype(np.float32)
        return torch.from_numpy(axis[index.reshape(1, -1, 3)]).to(self.device)


def in_chunks(
    function: Callable[[Tensor], Tensor],  # [1, N, 3] -> [1, N, C]
    points: Tensor,  # [1, N, 3]
) -> np.ndarray:  # [N, C]
    """Evaluate a function of points piece by piece and gather the results on the CPU."""
    parts = [function(chunk)[0].detach().cpu() for chunk in points.split(_CHUNK_POINTS, dim=1)]
    return torch.cat(parts).numpy()


@torch.no_grad()
def evaluate_volume(
    distance: Distance,
    grid: Grid,
    evaluation: Evaluation = "auto",
) -> np.ndarray:  # [resolution + 2] * 3 float32, axes x, y, z
    """Return distances on the grid with one layer of outside around it.

    The outer layer closes surfaces that leave the box just beyond its faces. Zeros count as
    outside, and values next to a sign change are moved away from zero by `VERTEX_MARGIN` at most.

    Args:
        distance: Negative inside.
        grid: Where.
        evaluation: "auto" evaluates near the zero level only, if `distance` grows like a distance;
            what is left out has the right sign. "dense" evaluates everywhere.

    Raises:
        UserError: If the distance is not finite.
    """
    # The outer layer is tiny until the border is closed, so that nothing keeps away from it.
    volume = np.full((grid.resolution + 2,) * 3, _TINY, dtype=np.float32)
    inside = volume[1:-1, 1:-1, 1:-1]
    coarse = _evaluate_corners(distance, grid)
    is_near_enough = evaluation == "auto" and _grows_like_a_distance(coarse, grid)
    wanted = _may_hold_surface(coarse)
    _fill(inside, coarse, wanted if is_near_enough else np.ones_like(wanted), distance, grid)
    lowest, highest = inside.min(), inside.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise UserError(f"a distance of the head is not finite (it reaches {lowest}..{highest})")
    _keep_from_zero(volume, VERTEX_MARGIN * max(-lowest, highest))
    _close_border(volume)
    return volume


def _evaluate_corners(
    distance: Distance,
    grid: Grid,
) -> np.ndarray:  # [blocks + 1] * 3
    """Evaluate the corners of blocks of `_BLOCK_SIDE` points a side."""
    num_blocks = -(-grid.resolution // _BLOCK_SIDE)
    side = np.minimum(np.arange(num_blocks + 1) * _BLOCK_SIDE, grid.resolution - 1)
    index = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1)
    return in_chunks(distance, grid.points(index)).reshape((num_blocks + 1,) * 3)


def _grows_like_a_distance(coarse: np.ndarray, grid: Grid) -> bool:
    """Tell true distances from pseudo distances, whose far values say little of what is near."""
    # The last blocks may be narrower than the others.
    core = coarse[:-1, :-1, :-1]
    if min(core.shape) < 3:
        return False
    steps = [np.diff(core, axis=axis) / (_BLOCK_SIDE * grid.spacing) for axis in range(3)]
    squares = steps[0][:, :-1, :-1] ** 2 + steps[1][:-1, :, :-1] ** 2 + steps[2][:-1, :-1, :] ** 2
    return bool(0.5 < np.sqrt(np.median(squares)) < 2)


def _may_hold_surface(
    coarse: np.ndarray,  # [blocks + 1] * 3
) -> np.ndarray:  # [blocks] * 3 bool
    """Mark blocks whose corner values are small beside how fast values change around there.

    A point lies at most half a block from a corner along each axis. The bound takes whole blocks,
    and for each axis the largest change in the neighbourhood: twice what a linear field needs.
    """
    blocks = tuple(slice(size - 1) for size in coarse.shape)
    change = np.zeros_like(coarse[blocks])
    for axis in range(3):
        # Over the four edges of a block along this axis.
        size = np.where(np.arange(3) == axis, 1, 2)
        edges = maximum_filter(np.abs(np.diff(coarse, axis=axis)), size, origin=1 - size)[blocks]
        change += maximum_filter(edges, size=3)
    return minimum_filter(np.abs(coarse), size=2, origin=-1)[blocks] <= change


def _fill(
    inside: np.ndarray,
    coarse: np.ndarray,
    wanted: np.ndarray,  # [blocks] * 3 bool
    distance: Distance,
    grid: Grid,
) -> None:
    """Evaluate the wanted blocks; all points of others get the value of a corner.

    Wherever signs differ, whole neighbourhoods are evaluated until no sign change is left that
    touches a guessed value. So a surface that was found at all is found completely.
    """
    size = grid.resolution
    corner = coarse[:-1, :-1, :-1]
    for block, plane in enumerate(corner):
        fill = plane.repeat(_BLOCK_SIDE, axis=0).repeat(_BLOCK_SIDE, axis=1)[:size, :size]
        inside[block * _BLOCK_SIDE : (block + 1) * _BLOCK_SIDE] = fill
    has_inside, has_outside = corner < 0, corner >= 0
    is_known = np.zeros(corner.shape, dtype=bool)
    while (wanted & ~is_known).any():
        blocks = np.argwhere(wanted & ~is_known)
        for chunk in np.array_split(blocks, -(-len(blocks) // _BLOCKS_A_CHUNK)):
            values = _fill_blocks(inside, chunk, distance, grid)
            has_inside[tuple(chunk.T)] = (values < 0).any(axis=1)
            has_outside[tuple(chunk.T)] = (values >= 0).any(axis=1)
        is_known |= wanted
        wanted = maximum_filter(has_inside, size=3) & maximum_filter(has_outside, size=3)


def _fill_blocks(
    inside: np.ndarray,
    blocks: np.ndarray,  # [M, 3]
    distance: Distance,
    grid: Grid,
) -> np.ndarray:  # [M, _BLOCK_SIDE**3]
    """Evaluate all points of some blocks; points beyond the grid repeat its last ones."""
    offsets = np.stack(np.meshgrid(*[np.arange(_BLOCK_SIDE)] * 3, indexing="ij"), axis=-1)
    index = blocks[:, None] * _BLOCK_SIDE + offsets.reshape(1, -1, 3)
    index = np.minimum(index, grid.resolution - 1)
    values = in_chunks(distance, grid.points(index)).reshape(index.shape[:2])
    inside[tuple(np.moveaxis(index, -1, 0))] = values
    return values


def _keep_from_zero(
    volume: np.ndarray,
    largest_move: float,
) -> None:
    """Move values away from zero until every sign change lies clearly between its grid points."""
    volume[volume == 0] = _TINY
    inside = volume[1:-1, 1:-1, 1:-1]
    small = np.argwhere((inside < largest_move) & (inside > -largest_move)) + 1
    neighbours = [
        tuple((small + offset).T) for offset in (*np.eye(3, dtype=int), *-np.eye(3, dtype=int))
    ]
    small = tuple(small.T)
    # Moving one value can leave its neighbour too small in turn, by a factor less each time.
    while True:
        values = volume[small]
        least = np.zeros_like(values)
        for neighbour in neighbours:
            others = volume[neighbour]
            is_across = (others < 0) != (values < 0)
            least = np.maximum(least, np.where(is_across, VERTEX_MARGIN * np.abs(others), 0))
        if (np.abs(values) >= least).all():
            return
        volume[small] = np.copysign(np.maximum(np.abs(values), least), values)


def _close_border(volume: np.ndarray) -> None:
    """Put outside around the grid, so far outside that the lids lie on the faces of the box."""
    for axis in range(3):
        layers = np.moveaxis(volume, axis, 0)
        for outer, border in ((0, 1), (-1, -2)):
            layers[outer, 1:-1, 1:-1] = np.abs(layers[border, 1:-1, 1:-1]) / VERTEX_MARGIN
