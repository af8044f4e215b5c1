"""Style vectors to texture planes and shape planes: one trunk, two images (spec 5)."""

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import Tensor, nn

from mate3d.network.layers import Noise, SynthesisBlock

PlaneBranches = Literal["dual", "single"]

_FIRST_RESOLUTION = 4
# Skip images of each kind; where there is one, it serves texture and shape.
_IMAGES: dict[str, tuple[str, ...]] = {"dual": ("texture", "shape"), "single": ("planes",)}


class PlaneBackbone(nn.Module):
    """StyleGAN2 trunk whose every block feeds a texture and a shape skip image, or one for both.

    Args:
        w_dim: Width of style vectors.
        plane_resolution: Side of the planes, a power of two.
        plane_channels: Channels of each of the three planes.
        channel_base: Channels at resolution r are min(channel_base / r, channel_max).
        channel_max: See `channel_base`.
        branches: "dual" makes texture and shape planes, "single" one tri-plane that is both, as
            in EG3D.
        clamp: Limit of the activations' magnitude, or None.
    """

    def __init__(
        self,
        w_dim: int,
        plane_resolution: int,
        plane_channels: int,
        *,
        channel_base: int = 32768,
        channel_max: int = 512,
        branches: PlaneBranches = "dual",
        clamp: float | None = None,
    ):
        super().__init__()
        self.plane_channels = plane_channels
        self.blocks = nn.ModuleDict()
        self.image_names = _IMAGES[branches]
        channels_of = dict.fromkeys(self.image_names, 3 * plane_channels)
        in_channels, resolution = 0, _FIRST_RESOLUTION
        while resolution <= plane_resolution:
            channels = min(channel_base // resolution, channel_max)
            self.blocks[f"b{resolution}"] = SynthesisBlock(
                in_channels, channels, w_dim, resolution, channels_of, clamp=clamp
            )
            in_channels, resolution = channels, resolution * 2

    @property
    def num_ws(self) -> int:
        """Style rows used: one a convolution, and one for the last images."""
        return sum(block.num_convs for block in self.blocks.values()) + 1

    def forward(
        self,
        ws: Tensor,  # [B, num_ws, w_dim]
        noise_mode: Noise = "const",
    ) -> tuple[Tensor, Tensor]:  # texture_planes, shape_planes: [B, 3, C, P, P]
        """Return the two tri-planes; with a single branch they are the same tensor."""
        x, images = None, None
        for block, rows, noises in self.block_inputs(ws, noise_mode):
            x, images = block(x, images, rows, noises)
        return self.as_planes(images)

    def block_inputs(
        self,
        ws: Tensor,  # [B, num_ws, w_dim]
        noise_mode: Noise,
    ) -> Iterator[tuple[SynthesisBlock, Tensor, Noise]]:
        """Yield each block with its style rows, [B, num_convs + 1, w_dim], and its noise."""
        assert ws.shape[1] == self.num_ws, (ws.shape, self.num_ws)
        row = 0
        for block in self.blocks.values():
            end = row + block.num_convs
            # A block's image row is also the next block's first convolution row.
            noise = noise_mode if isinstance(noise_mode, str) else noise_mode[row:end]
            yield block, ws[:, row : end + 1], noise
            row = end

    def noise_sides(self) -> list[int]:
        """Return the side of each convolution's noise, in their order."""
        return [
            block.conv1.resolution for block in self.blocks.values() for _ in range(block.num_convs)
        ]

    def as_planes(
        self,
        images: Mapping[str, Tensor],  # each [B, 3 C, P, P]
    ) -> tuple[Tensor, Tensor]:  # texture_planes, shape_planes: [B, 3, C, P, P]
        """Split the last block's images into planes."""
        planes = [images[name].unflatten(1, (3, self.plane_channels)) for name in self.image_names]
        return planes[0], planes[-1]
