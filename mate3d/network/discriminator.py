"""Dual discriminator: full-size and raw images; with masks, each has 3 + K channels (spec 7)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mate3d.cameras import CAMERA_DIM
from mate3d.network.layers import Conv2d, FullyConnected, minibatch_stddev
from mate3d.network.mapping import MappingNetwork
from mate3d.options import Options, PositiveFloat, PositiveInt
from torch_utils.ops.execution import channels_last_if_faster
from torch_utils.ops.resample import resize_antialias


@dataclass(frozen=True)
class DiscriminatorSizes(Options):
    """Sizes that do not follow from the generator; the defaults are the published ones.

    Args:
        channel_base: Channels at resolution r are min(channel_base / r, channel_max).
        channel_max: Maximum number of channels.
        mapping_layers: Layers that embed the camera.
        clamp: Clamp on the magnitude of activations; null disables it.
        stddev_group_size: Samples per group of the minibatch standard deviation.
    """

    channel_base: PositiveInt = 32768
    channel_max: PositiveInt = 512
    mapping_layers: PositiveInt = 8
    clamp: PositiveFloat | None = 256.0
    stddev_group_size: PositiveInt = 4


@dataclass(frozen=True)
class DiscriminatorConfig(DiscriminatorSizes):
    """Everything that rebuilds a discriminator.

    Args:
        image_channels: Channels of one image: 3, or 3 + K with segmentation.
        resolution: Side of full-size images.
    """

    image_channels: PositiveInt = 3
    resolution: PositiveInt = 512

    def channels(self, resolution: int) -> int:
        """Return the channels of features at a resolution."""
        return min(self.channel_base // resolution, self.channel_max)


class DiscriminatorBlock(nn.Module):
    """Residual block that halves the resolution; the first one also reads the image."""

    def __init__(self, config: DiscriminatorConfig, resolution: int):
        super().__init__()
        channels, clamp = config.channels(resolution), config.clamp
        out_channels = config.channels(resolution // 2)
        self.from_image = None
        if resolution == config.resolution:
            self.from_image = Conv2d(
                2 * config.image_channels, channels, 1, activation="lrelu", clamp=clamp
            )
        self.conv0 = Conv2d(channels, channels, 3, activation="lrelu", clamp=clamp)
        self.conv1 = Conv2d(channels, out_channels, 3, activation="lrelu", down=2, clamp=clamp)
        self.skip = Conv2d(channels, out_channels, 1, with_bias=False, down=2)

    def forward(
        self,
        x: Tensor,  # [B, C, H, W]
    ) -> Tensor:  # [B, C', H / 2, W / 2]
        """Return features at half the resolution."""
        if self.from_image is not None:
            x = self.from_image(x)
        half = 0.5**0.5
        return self.skip(x, gain=half) + self.conv1(self.conv0(x), gain=half)


class DiscriminatorHead(nn.Module):
    """Minibatch standard deviation, convolution and two linear layers at 4x4 pixels."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        channels = config.channels(4)
        self.group_size = config.stddev_group_size
        self.conv = Conv2d(channels + 1, channels, 3, activation="lrelu", clamp=config.clamp)
        self.fc = FullyConnected(channels * 16, channels, activation="lrelu")
        self.out = FullyConnected(channels, channels)

    def forward(
        self,
        x: Tensor,  # [B, C, 4, 4]
    ) -> Tensor:  # [B, C]
        """Return one vector per sample, to be compared with the mapped camera."""
        x = self.conv(minibatch_stddev(x, self.group_size))
        return self.out(self.fc(x.flatten(1)))


class Discriminator(nn.Module):
    """Dual discriminator conditioned on the camera (EG3D, section 4.4; spec 7)."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleDict()
        resolution = config.resolution
        while resolution > 4:
            self.blocks[f"b{resolution}"] = DiscriminatorBlock(config, resolution)
            resolution //= 2
        self.head = DiscriminatorHead(config)
        self.mapping = MappingNetwork(0, CAMERA_DIM, config.channels(4), config.mapping_layers)

    def forward(
        self,
        image: Tensor,  # [B, C, H, W] in about -1..1
        image_raw: Tensor,  # [B, C, h, w]
        camera: Tensor,  # [B, 25]
    ) -> Tensor:  # [B, 1]
        """Return logits; larger is more real.

        Args:
            image: Full-size images, or images and segmentations concatenated along channels.
            image_raw: The same at the rendering resolution.
        """
        x = torch.cat([image, resize_antialias(image_raw, self.config.resolution)], dim=1)
        x = channels_last_if_faster(x)
        for block in self.blocks.values():
            x = block(x)
        # Batch statistics can be too small for half precision.
        with torch.autocast(x.device.type, enabled=False):
            x = self.head(x.float())
            condition = self.mapping(None, camera)
            return (x * condition).sum(dim=1, keepdim=True) / condition.shape[1] ** 0.5
