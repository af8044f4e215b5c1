"""Distances on a regular grid for marching cubes, evaluated only near the surface."""

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

# Minimum distance of a vertex from a grid point, as a share of the spacing. Coinciding vertices
# would make faces without area, and programs that merge vertices on loading would open the mesh.
VERTEX_MARGIN = 1e-3
_CHUNK_POINTS = 65536
_BLOCK_SIDE = 4
_BLOCKS_PER_CHUNK = _CHUNK_POINTS // _BLOCK_SIDE**3
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Grid:
    """Points on a regular grid; the outermost ones are on the faces of the box.

    Args:
        box_size: Side of the box, centred at the origin, in world units.
        resolution: Points per side.
    """

    box_size: float
    resolution: int
    device: torch.device

    @property
    def spacing(self) -> float:
        """Distance between neighbouring points in world units."""
        return self.box_size / (self.resolution - 1)

    def points(
        self,
        index: np.ndarray,  # [..., 3] integer
    ) -> Tensor:  # [1, N, 3], world
        """Return the grid points with the given indices along x, y and z."""
        half = self.box_size / 2
        axis = np.linspace(-half, half, self.resolution).astype(np.float32)
        return torch.from_numpy(axis[index.reshape(1, -1, 3)]).to(self.device)


def in_chunks(
    function: Callable[[Tensor], Tensor],  # [1, N, 3] -> [1, N, C]
    points: Tensor,  # [1, N, 3]
) -> np.ndarray:  # [N, C]
    """Evaluate a function of points in chunks and gather the results on the CPU."""
    parts = [function(chunk)[0].detach().cpu() for chunk in points.split(_CHUNK_POINTS, dim=1)]
    return torch.cat(parts).numpy()


@torch.no_grad()
def evaluate_volume(
    distance: Distance,
    grid: Grid,
    evaluation: Evaluation = "auto",
) -> np.ndarray:  # [resolution + 2] * 3 float32, axes x, y, z
    """Return distances on the grid, surrounded by one layer of outside values.

    The outer layer closes surfaces that leave the box, just beyond its faces. Zeros count as
    outside. Values next to a sign change are moved away from zero by at most `VERTEX_MARGIN`.

    Args:
        distance: Function that is negative inside.
        evaluation: "auto" evaluates only near the zero level if `distance` grows like a distance;
            other points get the right sign. "dense" evaluates everywhere.

    Raises:
        UserError: If the distance is not finite.
    """
    # The outer layer is tiny until the border is closed, so that no value is moved away from it.
    volume = np.full((grid.resolution + 2,) * 3, _TINY, dtype=np.float32)
    inside = volume[1:-1, 1:-1, 1:-1]
    coarse = _evaluate_corners(distance, grid)
    is_near_enough = evaluation == "auto" and _grows_like_a_distance(coarse, grid)
    wanted = _may_hold_surface(coarse)
    _fill(inside, coarse, wanted if is_near_enough else np.ones_like(wanted), distance, grid)
    lowest, highest = inside.min(), inside.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise UserError(f"a distance of the head is not finite (range {lowest}..{highest})")
    _keep_from_zero(volume, VERTEX_MARGIN * max(-lowest, highest))
    # Outside values around the grid, large enough to put the lids on the box's faces.
    for axis in range(3):
        layers = np.moveaxis(volume, axis, 0)
        for outer, border in ((0, 1), (-1, -2)):
            layers[outer, 1:-1, 1:-1] = np.abs(layers[border, 1:-1, 1:-1]) / VERTEX_MARGIN
    return volume


def _evaluate_corners(distance: Distance, grid: Grid) -> np.ndarray:  # [blocks + 1] * 3
    """Evaluate the corners of blocks with `_BLOCK_SIDE` points per side."""
    num_blocks = -(-grid.resolution // _BLOCK_SIDE)
    side = np.minimum(np.arange(num_blocks + 1) * _BLOCK_SIDE, grid.resolution - 1)
    index = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1)
    return in_chunks(distance, grid.points(index)).reshape((num_blocks + 1,) * 3)


def _grows_like_a_distance(coarse: np.ndarray, grid: Grid) -> bool:
    """Distinguish true distances from pseudo-distances, unreliable far from the surface."""
    # The last blocks may be narrower.
    core = coarse[:-1, :-1, :-1]
    if min(core.shape) < 3:
        return False
    steps = [np.diff(core, axis=axis) / (_BLOCK_SIDE * grid.spacing) for axis in range(3)]
    squares = steps[0][:, :-1, :-1] ** 2 + steps[1][:-1, :, :-1] ** 2 + steps[2][:-1, :-1, :] ** 2
    return bool(0.5 < np.sqrt(np.median(squares)) < 2)


def _may_hold_surface(
    coarse: np.ndarray,  # [blocks + 1] * 3
) -> np.ndarray:  # [blocks] * 3 bool
    """Mark blocks whose corner values are small relative to how fast values change nearby.

    Along each axis, a point is at most half a block from a corner. The bound uses whole blocks and
    the largest change in the neighbourhood: twice the bound of a linear field.
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
    """Evaluate the requested blocks; all points of the others get the value of a corner.

    Where signs differ, whole neighbourhoods are evaluated until no sign change touches a guessed
    value. A surface that is found at all is therefore found completely.
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
        for chunk in np.array_split(blocks, -(-len(blocks) // _BLOCKS_PER_CHUNK)):
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
    """Evaluate all points of some blocks; points beyond the grid repeat the last ones."""
    offsets = np.stack(np.meshgrid(*[np.arange(_BLOCK_SIDE)] * 3, indexing="ij"), axis=-1)
    index = blocks[:, None] * _BLOCK_SIDE + offsets.reshape(1, -1, 3)
    index = np.minimum(index, grid.resolution - 1)
    values = in_chunks(distance, grid.points(index)).reshape(index.shape[:2])
    inside[tuple(np.moveaxis(index, -1, 0))] = values
    return values


def _keep_from_zero(volume: np.ndarray, largest_move: float) -> None:
    """Move values away from zero until every sign change is clearly between two grid points."""
    volume[volume == 0] = _TINY
    inside = volume[1:-1, 1:-1, 1:-1]
    small = np.argwhere((inside < largest_move) & (inside > -largest_move)) + 1
    neighbours = [
        tuple((small + offset).T) for offset in (*np.eye(3, dtype=int), *-np.eye(3, dtype=int))
    ]
    small = tuple(small.T)
    # Moving one value can make its neighbour too small; the moves shrink by a factor each time.
    while True:
        values = volume[small]
        smallest = np.zeros_like(values)
        for neighbour in neighbours:
            others = volume[neighbour]
            is_across = (others < 0) != (values < 0)
            smallest = np.maximum(smallest, np.where(is_across, VERTEX_MARGIN * np.abs(others), 0))
        if (np.abs(values) >= smallest).all():
            return
        volume[small] = np.copysign(np.maximum(np.abs(values), smallest), values)
