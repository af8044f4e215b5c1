"""Feature image to full-size image; likewise for segmentation (spec 6.6)."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from mate3d.network.layers import NoiseMode, SynthesisBlock
from torch_utils.ops.resize import resize_antialias


class SuperResolution(nn.Module):
    """Two synthesis blocks over the rendered features, driven by the last style row.

    Args:
        feature_channels: Channels of the feature image.
        image_channels: Channels of the raw and of the final image: 3, or K for segmentation.
        w_dim: Width of style vectors.
        input_resolution: Side that raw images are resized to first.
        output_resolution: Final side; input side times a power of two up to 2 ** len(channels).
        channels: Output channels of each block. The last blocks up-sample as often as needed.
        noise_mode: Noise of these blocks, independent of the backbone's.
        clamp: Limit of the activations' magnitude, or None.
    """

    def __init__(
        self,
        feature_channels: int,
        image_channels: int,
        w_dim: int,
        *,
        input_resolution: int,
        output_resolution: int,
        channels: Sequence[int],
        noise_mode: NoiseMode = "none",
        clamp: float | None = 256.0,
    ):
        super().__init__()
        self.input_resolution, self.noise_mode = input_resolution, noise_mode
        num_up = round(math.log2(output_resolution / input_resolution))
        if input_resolution * 2**num_up != output_resolution or not 0 <= num_up <= len(channels):
            raise ValueError(
                f"cannot go from {input_resolution} to {output_resolution} px in {len(channels)}"
                " blocks that double or keep the size"
            )
        blocks, in_channels, resolution = [], feature_channels, input_resolution
        for index, out_channels in enumerate(channels):
            up = 2 if index >= len(channels) - num_up else 1
            resolution *= up
            blocks.append(
                SynthesisBlock(
                    in_channels,
                    out_channels,
                    w_dim,
                    resolution,
                    {"image": image_channels},
                    up=up,
                    clamp=clamp,
                )
            )
            in_channels = out_channels
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self,
        image_raw: Tensor,  # [B, image_channels, h, w]
        feature_image: Tensor,  # [B, feature_channels, h, w]
        ws: Tensor,  # [B, L, w_dim]
    ) -> Tensor:  # [B, image_channels, H, W]
        """Return the full-size image; no final non-linearity."""
        image_raw, x, rows = self.prepare(image_raw, feature_image, ws)
        images = {"image": image_raw}
        for block in self.blocks:
            x, images = block(x, images, rows, self.noise_mode)
        return images["image"]

    def prepare(
        self,
        image_raw: Tensor,  # [B, image_channels, h, w]
        feature_image: Tensor,  # [B, feature_channels, h, w]
        ws: Tensor,  # [B, L, w_dim]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Resize both images to the input resolution; return them and each block's style rows."""
        if image_raw.shape[-1] != self.input_resolution:
            size = self.input_resolution
            image_raw = resize_antialias(image_raw, size)
            feature_image = resize_antialias(feature_image, size)
        return image_raw, feature_image, ws[:, -1:].expand(-1, 3, -1)
