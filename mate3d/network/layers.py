"""Equalized linear and convolution layers, modulated convolution, synthesis blocks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.execution import (
    at_least_single,
    channels_last_if_faster,
    computes_in_float16,
    own_precision,
)
from torch_utils.ops.resample import conv2d_resample, setup_filter, upsample2d

NoiseMode = Literal["const", "random", "none"]
# One mode for all convolutions, or the noise of each, [B, 1, resolution, resolution].
Noise = NoiseMode | tuple[Tensor, ...]
RESAMPLE_TAPS = (1, 3, 3, 1)
LRELU_SLOPE, LRELU_GAIN = 0.2, math.sqrt(2)


def normalize_second_moment(
    x: Tensor,  # [B, C]
) -> Tensor:  # [B, C]
    """Scale each row to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class FullyConnected(nn.Module):
    """Linear layer with equalized learning rate: weights are scaled on use (Karras 2018).

    Args:
        lr_multiplier: Learning-rate multiplier; stored weights and bias are divided by it.
        bias_init: Initial effective bias.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ):
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(num_outputs, num_inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((num_outputs,), bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(num_inputs)
        self.bias_gain = lr_multiplier

    def scaled_weight(self) -> Tensor:  # [outputs, inputs]
        """Return the effective weight."""
        return self.weight * self.weight_gain

    def scaled_bias(self) -> Tensor:  # [outputs]
        """Return the effective bias."""
        return self.bias * self.bias_gain

    def forward(
        self,
        x: Tensor,  # [..., inputs]
    ) -> Tensor:  # [..., outputs]
        """Return activation(x W^T + b)."""
        if self.activation == "linear":
            return nn.functional.linear(x, self.scaled_weight(), self.scaled_bias())
        y = nn.functional.linear(x, self.scaled_weight())
        return bias_act(y, self.scaled_bias(), dim=y.ndim - 1, activation=self.activation)


class Conv2d(nn.Module):
    """Equalized convolution with optional down-sampling, bias, activation and clamp (spec 3).

    Args:
        kernel_size: Odd kernel side.
        down: Down-sampling factor, 1 or 2.
        clamp: Maximum output magnitude at gain 1, or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        with_bias: bool = True,
        activation: str = "linear",
        down: int = 1,
        clamp: float | None = None,
    ):
        super().__init__()
        self.activation, self.down, self.clamp = activation, down, clamp
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if with_bias else None
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))

    def forward(
        self,
        x: Tensor,  # [B, in, H, W]
        gain: float = 1.0,
    ) -> Tensor:  # [B, out, H / down, W / down]
        """Convolve; `gain` multiplies the activation gain and the clamp."""
        y = conv2d_resample(
            x,
            self.weight * self.weight_gain,
            self.resample_filter,
            down=self.down,
            padding=self.padding,
        )
        activation_gain = LRELU_GAIN if self.activation == "lrelu" else 1.0
        clamp = None if self.clamp is None else self.clamp * gain
        return bias_act(
            y, self.bias, activation=self.activation, gain=activation_gain * gain, clamp=clamp
        )


def modulated_conv2d(
    x: Tensor,  # [B, in, H, W]
    weight: Tensor,  # [out, in, k, k]
    styles: Tensor,  # [B, in]
    *,
    noise: Tensor | None = None,  # broadcasts to [B, out, H * up, W * up]
    up: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
) -> Tensor:  # [B, out, H * up, W * up]
    """Convolve with weights scaled by per-sample styles (StyleGAN2, section 2.2).

    Up-sampling uses the unflipped kernel, as published weights expect (spec 3).
    """
    demodulation = None
    if demodulate:
        # Sums of squares overflow float16, and 1e-8 underflows.
        with own_precision(x):
            weight, styles = at_least_single(weight), at_least_single(styles)
            if computes_in_float16(x):
                weight, styles = _of_unit_size(weight, styles)
            energy = styles.square() @ weight.square().sum(dim=(2, 3)).t()
            demodulation = (energy + 1e-8).rsqrt()
    options = {"filter": resample_filter, "up": up, "padding": padding, "flip_weight": up == 1}
    scale = _scale_weights if x.device.type == "cpu" else _scale_activations
    y = scale(x, weight, styles, demodulation, options)
    return y if noise is None else y + noise


def _of_unit_size(
    weight: Tensor,  # [out, in, k, k]
    styles: Tensor,  # [B, in]
) -> tuple[Tensor, Tensor]:
    """Scale weights and styles so that products fit in float16; demodulation undoes it (spec 3)."""
    fan_in = weight[0].numel()
    largest = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-8)
    weight = weight / (largest * math.sqrt(fan_in))
    return weight, styles / styles.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-8)


def _scale_weights(
    x: Tensor,  # [B, in, H, W]
    weight: Tensor,  # [out, in, k, k]
    styles: Tensor,  # [B, in]
    demodulation: Tensor | None,  # [B, out]
    options: Mapping[str, Any],
) -> Tensor:  # [B, out, H', W']
    """Convolve each sample with its own weights: scaling them is cheaper than activations."""
    parts = []
    for index, part in enumerate(channels_last_if_faster(x).split(1)):
        scaled = weight * styles[index, :, None, None]
        if demodulation is not None:
            scaled = scaled * demodulation[index, :, None, None, None]
        parts.append(conv2d_resample(part, scaled, **options))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _scale_activations(
    x: Tensor,  # [B, in, H, W]
    weight: Tensor,  # [out, in, k, k]
    styles: Tensor,  # [B, in]
    demodulation: Tensor | None,  # [B, out]
    options: Mapping[str, Any],
) -> Tensor:  # [B, out, H', W']
    """Scale activations before and after one ordinary convolution of the whole batch."""
    x = channels_last_if_faster(x) * styles[:, :, None, None].to(x.dtype)
    y = conv2d_resample(x, weight, **options)
    return y if demodulation is None else y * demodulation[:, :, None, None].to(y.dtype)


def layer_noises(noise_mode: Noise, num_layers: int) -> Sequence[NoiseMode | Tensor]:
    """Return each layer's noise."""
    return [noise_mode] * num_layers if isinstance(noise_mode, str) else noise_mode


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU (spec 3).

    Args:
        resolution: Output side, in pixels.
        up: Up-sampling factor, 1 or 2.
        clamp: Maximum output magnitude, or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: int = 1,
        clamp: float | None = None,
    ):
        super().__init__()
        self.resolution, self.up, self.clamp = resolution, up, clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def _make_noise(self, x: Tensor, noise_mode: NoiseMode | Tensor) -> Tensor | None:
        if isinstance(noise_mode, Tensor):
            return noise_mode.to(x.dtype) * self.noise_strength
        if noise_mode == "none":
            return None
        if noise_mode == "const":
            return self.noise_const * self.noise_strength
        shape = (len(x), 1, self.resolution, self.resolution)
        return torch.randn(shape, device=x.device, dtype=x.dtype) * self.noise_strength

    def forward(
        self,
        x: Tensor,  # [B, in, H, W]
        w: Tensor,  # [B, w_dim]
        noise_mode: NoiseMode | Tensor = "const",  # or noise, [B, 1, resolution, resolution]
    ) -> Tensor:  # [B, out, resolution, resolution]
        """Return the activated features."""
        y = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            noise=self._make_noise(x, noise_mode),
            up=self.up,
            padding=1,
            resample_filter=self.resample_filter,
        )
        return bias_act(y, self.bias, activation="lrelu", clamp=self.clamp)


class ToImage(nn.Module):
    """1x1 modulated convolution to image or plane channels, without demodulation (spec 3)."""

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, *, clamp: float | None = None
    ):
        super().__init__()
        self.clamp = clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.style_gain = 1 / math.sqrt(in_channels)

    def forward(
        self,
        x: Tensor,  # [B, in, H, W]
        w: Tensor,  # [B, w_dim]
    ) -> Tensor:  # [B, out, H, W]
        """Return this resolution's contribution to the image."""
        y = modulated_conv2d(x, self.weight, self.affine(w) * self.style_gain, demodulate=False)
        return bias_act(y, self.bias, clamp=self.clamp)


class SynthesisBlock(nn.Module):
    """One resolution of a skip-style synthesis network with one or more images.

    Args:
        in_channels: Input channels; 0 for the first block, which starts from a learned constant.
        resolution: Output side, in pixels.
        image_channels: Channels of each named image that is accumulated over the blocks.
        up: Up-sampling factor of features and images, 1 or 2.
        clamp: Maximum magnitude of activations, or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        image_channels: Mapping[str, int],
        *,
        up: int = 2,
        clamp: float | None = None,
    ):
        super().__init__()
        self.up = up
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
            self.conv0 = None
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, w_dim, resolution, up=up, clamp=clamp
            )
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, clamp=clamp)
        self.to_image = nn.ModuleDict(
            {
                name: ToImage(out_channels, channels, w_dim, clamp=clamp)
                for name, channels in image_channels.items()
            }
        )

    @property
    def num_convs(self) -> int:
        """Number of style rows for convolutions; the images use one more."""
        return 1 if self.conv0 is None else 2

    def forward(
        self,
        x: Tensor | None,  # [B, in, H, W]; None for the first block
        images: dict[str, Tensor] | None,  # each [B, C, H, W]
        ws: Tensor,  # [B, num_convs + 1, w_dim]
        noise_mode: Noise = "const",
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return this block's features and the accumulated images."""
        rows, noises = iter(ws.unbind(dim=1)), iter(layer_noises(noise_mode, self.num_convs))
        if self.conv0 is None:
            x = self.const.expand(len(ws), -1, -1, -1)
        else:
            x = self.conv0(x, next(rows), next(noises))
        x = self.conv1(x, next(rows), next(noises))
        image_row = next(rows)
        # Rounding to half precision would add up from block to block.
        outputs = {n: at_least_single(layer(x, image_row)) for n, layer in self.to_image.items()}
        if images is not None:
            for name, image in images.items():
                skip = upsample2d(image, self.resample_filter) if self.up == 2 else image
                outputs[name] = skip + outputs[name]
        return x, outputs


def minibatch_stddev(
    x: Tensor,  # [B, C, H, W]
    group_size: int = 4,
) -> Tensor:  # [B, C + 1, H, W]
    """Append the mean standard deviation over groups of the batch (Karras 2018; spec 7)."""
    num_batch, _, height, width = x.shape
    group = min(group_size, num_batch)
    if num_batch % group:
        raise ValueError(f"batch size {num_batch} is not divisible by group size {group}")
    y = x.reshape(group, num_batch // group, -1)
    y = (y - y.mean(dim=0)).square().mean(dim=0)
    statistic = (y + 1e-8).sqrt().mean(dim=1).repeat(group)
    return torch.cat([x, statistic.view(-1, 1, 1, 1).expand(-1, 1, height, width)], dim=1)
