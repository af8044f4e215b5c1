"""The synthesis networks: backbone and super-resolution, exact and fast.

`synthesize_planes` and `superresolve` equal the networks' `forward` up to rounding, without
gradients. On a CPU, styles are folded into the weights, and images are computed in bands of rows.
The gain is in memory traffic: a band's activations stay in the cache through a whole block,
convolutions read channels-last tensors, and styles, demodulation and activation gain cost one pass
over the weights instead of several over the activations. A GPU would wait at every layer, so there
the networks themselves run, on the whole batch and compiled if they are.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mate3d.network.layers import (
    LRELU_GAIN,
    LRELU_SLOPE,
    Noise,
    NoiseMode,
    SynthesisBlock,
    SynthesisLayer,
    ToImage,
    layer_noises,
)
from torch_utils.ops.resample import (
    conv2d_resample,
    resize_antialias,
    suits_winograd,
    upsample2d,
)
from torch_utils.ops.winograd import WinogradConvolution

PlaneBranches = Literal["dual", "single"]

_FIRST_RESOLUTION = 4
# Skip images of each variant; a single one serves both texture and shape.
_IMAGES: dict[str, tuple[str, ...]] = {"dual": ("texture", "shape"), "single": ("planes",)}
# Bytes of a band's activations. Larger bands do not fit in the cache, and the C allocator
# requests fresh pages for every tensor above 32 MiB; smaller bands recompute more shared rows.
_BAND_BYTES = 12 * 2**20
# Input rows beyond a band that its up-sampled rows depend on, through 3x3 weights and 4 taps.
_MARGIN = 1


class PlaneBackbone(nn.Module):
    """StyleGAN2 trunk; every block feeds a texture and a shape skip image, or one for both.

    Args:
        plane_resolution: Side of the planes, a power of two.
        channel_base: Channels at resolution r are min(channel_base / r, channel_max).
        channel_max: See `channel_base`.
        branches: "dual" makes separate texture and shape planes; "single" makes one tri-plane for
            both, as in EG3D.
        clamp: Maximum magnitude of activations, or None.
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
        """Number of style rows: one per convolution, plus one for the last images."""
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
        """Return the side of each convolution's noise, in order."""
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


class SuperResolution(nn.Module):
    """Two synthesis blocks over the rendered features, driven by the last style row.

    Args:
        image_channels: Channels of the raw and final images: 3, or K for segmentation.
        input_resolution: Side that raw images are first resized to.
        output_resolution: Final side: the input side times 2**n with 0 <= n <= len(channels).
        channels: Output channels of each block; the last n blocks up-sample.
        noise_mode: Noise of these blocks, independent of the backbone's.
        clamp: Maximum magnitude of activations, or None.
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
                f"cannot super-resolve {input_resolution} to {output_resolution} pixels with "
                f"{len(channels)} blocks; the ratio must be a power of two up to "
                f"{2 ** len(channels)}"
            )
        blocks, in_channels, resolution = [], feature_channels, input_resolution
        images = {"image": image_channels}
        for index, out_channels in enumerate(channels):
            up = 2 if index >= len(channels) - num_up else 1
            resolution *= up
            block = SynthesisBlock(
                in_channels, out_channels, w_dim, resolution, images, up=up, clamp=clamp
            )
            blocks.append(block)
            in_channels = out_channels
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self,
        image_raw: Tensor,  # [B, image_channels, h, w]
        feature_image: Tensor,  # [B, feature_channels, h, w]
        ws: Tensor,  # [B, L, w_dim]
    ) -> Tensor:  # [B, image_channels, H, W]
        """Return the full-size image, without a final non-linearity."""
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


def works_in_bands(device: torch.device) -> bool:
    """Return whether `synthesize_planes` and `superresolve` do not just run the networks."""
    return device.type == "cpu"


@torch.no_grad()
def synthesize_planes(
    backbone: PlaneBackbone,
    ws: Tensor,  # [B, num_ws, w_dim]
    noise_mode: Noise = "const",
) -> tuple[Tensor, Tensor]:  # texture_planes, shape_planes: [B, 3, C, P, P]
    """Compute `backbone(ws, noise_mode)` without recording gradients."""
    if not works_in_bands(ws.device):
        return backbone(ws, noise_mode)
    x, images = None, None
    for block, rows, noises in backbone.block_inputs(ws, noise_mode):
        x, images = _run_block(block, x, images, rows, noises)
    return backbone.as_planes(images)


@torch.no_grad()
def superresolve(
    network: SuperResolution,
    image_raw: Tensor,  # [B, image_channels, h, w]
    feature_image: Tensor,  # [B, feature_channels, h, w]
    ws: Tensor,  # [B, L, w_dim]
) -> Tensor:  # [B, image_channels, H, W]
    """Compute `network(image_raw, feature_image, ws)` without recording gradients."""
    if not works_in_bands(ws.device):
        return network(image_raw, feature_image, ws)
    image_raw, x, rows = network.prepare(image_raw, feature_image, ws)
    images = {"image": image_raw}
    last = network.blocks[-1]
    for block in network.blocks:
        x, images = _run_block(
            block, x, images, rows, network.noise_mode, with_features=block is not last
        )
    return images["image"]


def _run_block(
    block: SynthesisBlock,
    x: Tensor | None,  # [B, in, H, W]
    images: dict[str, Tensor] | None,
    ws: Tensor,  # [B, num_convs + 1, w_dim]
    noise_mode: Noise,
    *,
    with_features: bool = True,
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Compute a block one sample and one band of rows at a time."""
    size = block.conv1.resolution
    layers = [layer for layer in (block.conv0, block.conv1) if layer is not None]
    noises = [
        _make_noise(layer, len(ws), noise)
        for layer, noise in zip(layers, layer_noises(noise_mode, len(layers)), strict=True)
    ]
    outputs = {
        name: _empty_images(ws, len(layer.bias), size) for name, layer in block.to_image.items()
    }
    features = None
    for item in range(len(ws)):
        rows = iter(ws[item : item + 1].unbind(dim=1))
        plans = [
            _LayerPlan.make(layer, next(rows), None if noise is None else noise[item % len(noise)])
            for layer, noise in zip(layers, noises, strict=True)
        ]
        image_row = next(rows)
        image_layers = {
            name: _image_weights(layer, image_row) for name, layer in block.to_image.items()
        }
        source = block.const[None] if x is None else x[item : item + 1]
        source = source.contiguous(memory_format=torch.channels_last)
        for first, last in _bands(size, plans[-1].weight.shape[0]):
            band = _run_layers(plans, source, first, last)
            if with_features:
                if features is None:
                    # Autocast may set the type.
                    features = _empty_images(ws.to(band.dtype), band.shape[1], size)
                features[item, :, first:last] = band[0]
            for name, (weight, bias, clamp) in image_layers.items():
                part = F.conv2d(band, weight, bias)
                if clamp is not None:
                    part.clamp_(-clamp, clamp)
                outputs[name][item, :, first:last] = part[0]
    if images is not None:
        for name, image in images.items():
            image = image.contiguous(memory_format=torch.channels_last)
            skip = upsample2d(image, block.resample_filter) if block.up == 2 else image
            outputs[name] += skip
    return features, outputs


@dataclass(frozen=True)
class _LayerPlan:
    """A synthesis layer for one sample, with style, demodulation and gain in the weights."""

    layer: SynthesisLayer
    weight: Tensor  # [out, in, 3, 3]
    bias: Tensor  # [out]
    noise: Tensor | None  # [size, size]
    winograd: WinogradConvolution | None

    @staticmethod
    def make(layer: SynthesisLayer, w: Tensor, noise: Tensor | None) -> "_LayerPlan":
        weight = layer.weight * layer.affine(w)[0, :, None, None].to(layer.weight)
        norm = torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True)
        weight *= (norm.square() + 1e-8).rsqrt() * LRELU_GAIN
        noise = None if noise is None else noise * (layer.noise_strength * LRELU_GAIN)
        bias = layer.bias * LRELU_GAIN
        by_tiles = layer.up == 1 and suits_winograd(weight, layer.resolution)
        winograd = WinogradConvolution(weight, bias) if by_tiles else None
        return _LayerPlan(layer, weight, bias, noise, winograd)

    def activate(self, y: Tensor, first: int, last: int) -> Tensor:
        """Apply noise, activation and clamp to rows `first` to `last`, in place.

        The gain is already in the weights: it is positive, so it commutes with leaky ReLU.
        """
        if self.noise is not None:
            y += self.noise[first:last]
        F.leaky_relu_(y, LRELU_SLOPE)
        clamp = self.layer.clamp
        return y if clamp is None else y.clamp_(-clamp, clamp)


def _run_layers(plans: list[_LayerPlan], x: Tensor, first: int, last: int) -> Tensor:
    """Return output rows `first` to `last` of the layers; the first one may up-sample."""
    *earlier, plan = plans
    if plan.layer.up == 2:
        return _run_upsampling(plan, x, first, last)
    # One more row on each side, or zeros beyond the image.
    low, high = max(first - 1, 0), min(last + 1, plan.layer.resolution)
    x = _run_layers(earlier, x, low, high) if earlier else x[:, :, low:high]
    missing = [0, 0, low - (first - 1), (last + 1) - high]
    if plan.winograd is not None and (last - first) % 4 == 0:
        y = plan.winograd(F.pad(x, [1, 1, *missing[2:]]))
    else:
        x = F.pad(x, missing) if any(missing) else x
        y = F.conv2d(x, plan.weight, plan.bias, padding=(0, 1))
    return plan.activate(y, first, last)


def _run_upsampling(plan: _LayerPlan, x: Tensor, first: int, last: int) -> Tensor:
    low = max(first // 2 - _MARGIN, 0)
    high = min((last + 1) // 2 + _MARGIN, x.shape[2])
    y = conv2d_resample(
        x[:, :, low:high],
        plan.weight,
        plan.layer.resample_filter,
        up=2,
        padding=1,
        flip_weight=False,
    )
    y = y[:, :, first - 2 * low : last - 2 * low] + plan.bias[:, None, None]
    return plan.activate(y, first, last)


def _empty_images(
    ws: Tensor,  # [B, ...]
    channels: int,
    size: int,
) -> Tensor:  # [B, channels, size, size]
    """Return empty channels-last images of a batch, the way convolutions return bands of them."""
    images = ws.new_empty(len(ws), size, size, channels)
    return images.permute(0, 3, 1, 2)


def _image_weights(layer: ToImage, w: Tensor) -> tuple[Tensor, Tensor, float | None]:
    styles = layer.affine(w)[0] * layer.style_gain
    return layer.weight * styles[:, None, None], layer.bias, layer.clamp


def _make_noise(
    layer: SynthesisLayer, num_samples: int, noise_mode: NoiseMode | Tensor
) -> Tensor | None:
    """Return unit noise, [1 or B, size, size], or None if it has no effect."""
    if isinstance(noise_mode, Tensor):
        return noise_mode[:, 0] if layer.noise_strength else None
    if noise_mode == "none" or not layer.noise_strength:
        return None
    if noise_mode == "const":
        return layer.noise_const[None]
    size = layer.resolution
    return torch.randn((num_samples, size, size), device=layer.noise_const.device)


def _bands(size: int, channels: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last) rows of bands whose activations fit in the CPU cache."""
    rows = min(max(_BAND_BYTES // (4 * channels * size) // 4 * 4, 8), size)
    for first in range(0, size, rows):
        yield first, min(first + rows, size)
