"""A small network trained on procedural portraits: features to compare image sets, and labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from mate3d.atomic import atomic_folder
from mate3d.checkpoints.assets import folder_or_asset, where_to_find
from mate3d.checkpoints.storage import load_state_strictly, load_weights, save_weights
from mate3d.errors import UserError
from mate3d.labels import get_label_set
from mate3d.options import (
    AtLeast,
    OptionError,
    Options,
    PositiveInt,
    config_from_dict,
    config_to_dict,
)

CONFIG_FILE = "config.yaml"
WEIGHTS_FILE = "features.safetensors"
CARD_FILE = "card.md"


@dataclass(frozen=True)
class FeatureNetworkSizes(Options):
    """Sizes of a feature network.

    Args:
        resolution: Resolution that images are resized to, in pixels; a multiple of 16.
        channels: Channels at 1/2, 1/4, 1/8 and 1/16 of the resolution.
        num_features: Features per image.
        head_channels: Channels of the segmentation's upsampling path.
    """

    resolution: Annotated[int, AtLeast(16)] = 64
    channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (24, 48, 96, 128)
    num_features: PositiveInt = 128
    head_channels: PositiveInt = 32

    def __post_init__(self):
        super().__post_init__()
        if self.resolution % 16:
            raise OptionError("resolution", self.resolution, "use a multiple of 16")


@dataclass(frozen=True, kw_only=True)
class FeatureNetworkConfig(FeatureNetworkSizes):
    """Sizes and targets of a feature network; stored beside its weights.

    Args:
        attributes: Names of the predicted attributes.
        label_sets: Names of the predicted label sets.
    """

    attributes: tuple[str, ...]
    label_sets: tuple[str, ...]

    def __post_init__(self):
        super().__post_init__()
        for name in self.label_sets:
            get_label_set(name)


@dataclass
class FeaturePrediction:
    """Predictions for a batch of images.

    Args:
        features: [B, num_features], non-negative.
        attributes: [B, A], in standard deviations over the training portraits.
        segmentation: Class scores of each label set, [B, K, R, R].
    """

    features: Tensor
    attributes: Tensor
    segmentation: Mapping[str, Tensor]


class FeatureNetwork(nn.Module):
    """Convolutional trunk with a linear attribute head and a decoder for labels.

    `forward` accepts uint8 images, as torchmetrics expects of a feature network.
    """

    def __init__(self, config: FeatureNetworkConfig):
        super().__init__()
        self.config = config
        first, second, third, fourth = config.channels
        width = config.head_channels
        self.level2 = nn.Sequential(_block(3, first, stride=2, size=5), _block(first, first))
        self.level4 = nn.Sequential(_block(first, second, stride=2), _block(second, second))
        self.level8 = nn.Sequential(_block(second, third, stride=2), _block(third, third))
        self.level16 = nn.Sequential(
            _block(third, fourth, stride=2), _block(fourth, config.num_features)
        )
        self.attribute_head = nn.Linear(config.num_features, len(config.attributes))
        self.lateral16 = nn.Conv2d(config.num_features, width, 1)
        self.lateral8 = nn.Conv2d(third, width, 1)
        self.lateral4 = nn.Conv2d(second, width, 1)
        self.lateral2 = nn.Conv2d(first, width, 1)
        self.merge4, self.merge2 = _block(width, width), _block(width, width)
        # Four scores per class and position, for its 2 x 2 pixels.
        self.label_heads = nn.ModuleDict(
            {
                name: nn.Conv2d(width, 4 * get_label_set(name).num_classes, 1)
                for name in config.label_sets
            }
        )

    @property
    def num_features(self) -> int:
        """Features per image; read by torchmetrics."""
        return self.config.num_features

    def forward(
        self,
        images: Tensor,  # [B, 3, H, W] uint8
    ) -> Tensor:  # [B, num_features]
        """Return the features of 8-bit images."""
        return self._trunk(images.float() / 127.5 - 1)[-1].mean(dim=(2, 3))

    def predict(
        self,
        images: Tensor,  # [B, 3, H, W] in [-1, 1]
    ) -> FeaturePrediction:
        """Return features, attributes and labels, the labels at the network's resolution."""
        at2, at4, at8, at16 = self._trunk(images)
        features = at16.mean(dim=(2, 3))
        upward = self.lateral8(at8) + _double(self.lateral16(at16))
        upward = self.merge4(self.lateral4(at4) + _double(upward))
        upward = self.merge2(self.lateral2(at2) + _double(upward))
        scores = {name: F.pixel_shuffle(head(upward), 2) for name, head in self.label_heads.items()}
        return FeaturePrediction(features, self.attribute_head(features), scores)

    def label_maps(
        self,
        images: Tensor,  # [B, 3, H, W] in [-1, 1]
        label_set: str,
    ) -> Tensor:  # [B, H, W] int64
        """Return the most probable label of each pixel, at the images' own size."""
        scores = self.predict(images).segmentation[label_set]
        size = images.shape[-2:]
        return F.interpolate(scores, size, mode="bilinear", align_corners=False).argmax(dim=1)

    def _trunk(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        at2 = self.level2(resize_images(images, self.config.resolution))
        at4 = self.level4(at2)
        at8 = self.level8(at4)
        return at2, at4, at8, self.level16(at8)


def resize_images(
    images: Tensor,  # [B, C, H, W]
    side: int,
) -> Tensor:  # [B, C, side, side]
    """Resize images with an antialiased bilinear filter."""
    if images.shape[-2:] == (side, side):
        return images
    size = (side, side)
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def save_feature_network(folder: str | Path, network: FeatureNetwork, *, card: str) -> None:
    """Write config, half-precision weights and card atomically.

    Raises:
        UserError: If the folder cannot be written.
    """
    with atomic_folder(folder) as temporary:
        text = yaml.safe_dump(config_to_dict(network.config), sort_keys=False)
        (temporary / CONFIG_FILE).write_text(text, encoding="utf-8")
        save_weights(temporary / WEIGHTS_FILE, network.state_dict(), dtype=torch.float16)
        (temporary / CARD_FILE).write_text(card, encoding="utf-8")


def load_feature_network(folder: str | Path, device: str | torch.device = "cpu") -> FeatureNetwork:
    """Load a feature network, frozen and in eval mode, from a folder or an asset's name.

    Raises:
        UserError: If the folder has none, or its files are damaged or inconsistent.
    """
    path = folder_or_asset(folder) / CONFIG_FILE
    if not path.with_name(WEIGHTS_FILE).is_file():
        advice = where_to_find(folder, f"*/{WEIGHTS_FILE}")
        raise UserError(f"no feature network at {folder}: {WEIGHTS_FILE} not found{advice}")
    try:
        config = config_from_dict(FeatureNetworkConfig, yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise UserError(f"{path} is not a feature network config: {error}") from None
    network = FeatureNetwork(config)
    load_state_strictly(network, load_weights(path.with_name(WEIGHTS_FILE)), str(folder))
    return network.to(device).eval().requires_grad_(False)


def _block(in_channels: int, out_channels: int, *, stride: int = 1, size: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _double(values: Tensor) -> Tensor:
    return F.interpolate(values, scale_factor=2.0, mode="nearest")
