"""The networks evaluated in the order of the published code: the yardstick of the speed figures.

The published code cannot be shipped, so this is written from docs/generator_spec.md, with PyTorch
operations only. The weights are those of our networks and the results are those of `exact`, but
the work is done as the spec describes it (sections in brackets):

- zeros are inserted and filtered for upsampling, tensors are channels-first, and bias, activation,
  gain and clamp are separate operations (3); modulated convolutions use each sample's own weights,
  or scale the activations in training (3, 8)
- each plane is looked up by itself, for texture and for shape, and the mean is taken after (6.1)
- 21 separate MLPs with softplus and 20 densities at every coarse and fine sample (6.2, 6.3)
- all values are merged and sorted (6.3), then marched once in colour, once for every class with
  all 32 features, and once for the semantics, with each interval's mean written out (6.4, 6.5)
- in training, everything is recorded, the eikonal term differentiates twice (8.3), terms of
  weight 0 are computed, and the fakes of discriminators cost as much as any image (8.5)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

import mate3d.generator
from mate3d.network import layers
from mate3d.network.sdf_decoder import widened_sigmoid
from mate3d.rendering.field import sdf_gradient
from mate3d.rendering.rays import (
    DepthDraws,
    class_scores,
    fill_colors,
    fill_scores,
    importance_depths,
    interval_weights,
    stratified_depths,
    to_image,
)
from mate3d.rendering.renderer import FieldRender, RaySamples, RenderingConfig
from mate3d.rendering.triplane import TriPlaneField, project_points
from torch_utils.ops import triplane_sample

# Bilinear, zeros outside, corners of planes not in pixel centres.
_LOOK_UP = (0, 0, False)


@contextmanager
def in_release_order(*, training: bool = False) -> Iterator[None]:
    """Evaluate generators with `exact=True`, and discriminators, in the release's order.

    Args:
        training: Scale activations instead of weights, as the release trains.
    """
    replaced = {
        "bias_act": bias_act,
        "conv2d_resample": conv2d_resample,
        "modulated_conv2d": partial(modulated_conv2d, per_sample=not training),
        "upsample2d": upsample2d,
    }
    with (
        patch.multiple(layers, **replaced),
        patch.object(mate3d.generator, "render_field", render_field),
    ):
        yield


def bias_act(
    x: Tensor, bias: Tensor | None = None, *, dim=1, activation="linear", gain=None, clamp=None
) -> Tensor:
    """Add a bias, activate, multiply, clamp: one pass over the tensor for each."""
    if bias is not None:
        x = x + bias.reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])
    if activation == "lrelu":
        x = F.leaky_relu(x, layers.LRELU_SLOPE)
        gain = layers.LRELU_GAIN if gain is None else gain
    x = x if gain in (None, 1) else x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def upfirdn2d(x: Tensor, filter: Tensor, *, padding: tuple, up=1, down=1, gain=1) -> Tensor:
    """Insert zeros, pad, convolve each channel at the full rate, keep every `down`-th sample."""
    batch, channels, height, width = x.shape
    if up > 1:
        x = F.pad(x.reshape(batch, channels, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(batch, channels, height * up, width * up)
    kernel = (filter * gain).flip([0, 1]).repeat(channels, 1, 1, 1)
    x = F.conv2d(F.pad(x, padding * 2), kernel, groups=channels)
    return x[:, :, ::down, ::down]


def upsample2d(x: Tensor, filter: Tensor) -> Tensor:
    """Upsample by 2."""
    return upfirdn2d(x, filter, up=2, padding=(2, 1), gain=4)


def conv2d_resample(
    x: Tensor, weight: Tensor, filter: Tensor | None, *, up=1, down=1, padding=0, groups=1
) -> Tensor:
    """Convolve, upsampling or downsampling by 2."""
    x = x.contiguous()  # Our discriminators make theirs channels-last.
    if up == 2:
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        x = F.conv_transpose2d(x, weight, stride=2, groups=groups)
        return upfirdn2d(x, filter, padding=(1, 1), gain=4)
    if down == 2 and weight.shape[-1] == 1:
        return F.conv2d(upfirdn2d(x, filter, down=2, padding=(1, 1)), weight)
    if down == 2:
        return F.conv2d(upfirdn2d(x, filter, padding=(2, 2)), weight, stride=2)
    return F.conv2d(x, weight, padding=padding, groups=groups)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    noise: Tensor | None = None,
    demodulate: bool = True,
    resample_filter: Tensor | None = None,
    per_sample: bool = True,
    **options: int,
) -> Tensor:
    """Convolve with weights scaled by styles: each sample's own, or the activations scaled."""
    batch, norm = len(x), None
    if per_sample or demodulate:
        own = weight * styles[:, None, :, None, None]
    if demodulate:
        norm = (own.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    if per_sample:
        own = own if norm is None else own * norm
        x = x.reshape(1, -1, *x.shape[2:])
        y = conv2d_resample(x, own.flatten(0, 1), resample_filter, groups=batch, **options)
        y = y.reshape(batch, -1, *y.shape[2:])
    else:
        x = x * styles[:, :, None, None]
        y = conv2d_resample(x, weight, resample_filter, **options)
        y = y if norm is None else y * norm[..., 0]
    return y if noise is None else y + noise


def _each_plane(planes: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    return planes.flatten(0, 1), positions.flatten(0, 1)[:, None]


class PlaneFeatures(Function):
    """Look-ups in three planes and their mean, by PyTorch's `grid_sample` and its gradient.

    Second derivatives, which PyTorch lacks, come from our operation: the release has a kernel too.
    """

    @staticmethod
    def forward(ctx, planes, positions):
        ctx.save_for_backward(planes, positions)
        batch, _, channels = planes.shape[:3]
        each = torch.grid_sampler(*_each_plane(planes, positions), *_LOOK_UP)
        return each.permute(0, 3, 2, 1).reshape(batch, 3, -1, channels).mean(dim=1)

    @staticmethod
    def backward(ctx, grad):
        return PlaneGradients.apply(grad, *ctx.saved_tensors, ctx.needs_input_grad)


class PlaneGradients(Function):
    """Gradients of `PlaneFeatures`; those of positions can be differentiated once."""

    @staticmethod
    def forward(ctx, grad, planes, positions, needed):
        ctx.save_for_backward(grad, planes, positions)
        ctx.set_materialize_grads(False)
        each = (grad / 3).transpose(1, 2)[:, None, :, None].expand(-1, 3, -1, -1, -1)
        grad_planes, grad_positions = torch.ops.aten.grid_sampler_2d_backward(
            each.flatten(0, 1), *_each_plane(planes, positions), *_LOOK_UP, needed
        )
        return (
            grad_planes.view_as(planes) if needed[0] else None,
            grad_positions.view_as(positions) if needed[1] else None,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, along_planes, direction):
        assert along_planes is None
        grad, planes, positions = ctx.saved_tensors
        ops, (height, width) = triplane_sample.PYTORCH, planes.shape[-2:]
        table = planes.permute(0, 1, 3, 4, 2).contiguous()
        grad_table = ops.triplane_sample_table_grad(grad, positions, direction, height, width)
        return (
            ops.triplane_sample(table, positions, direction),
            grad_table.permute(0, 1, 4, 2, 3),
            ops.triplane_sample_points_grad(grad, table, positions, direction),
            None,
        )


def evaluate(
    field: TriPlaneField,
    points: Tensor,  # [B, R, S, 3]
    *,
    with_gradient: bool = False,
) -> tuple[list[Tensor], Tensor | None]:  # each [B, R, S, C], gradient [B, R * S, 3]
    """Return points, features, distance, density, and all classes' distances and densities."""
    samples, decoder, flat = points.shape[1:3], field.decoder, points.flatten(1, 2)
    if with_gradient:
        flat = flat.detach().requires_grad_(True)
    positions = project_points(flat * (2 / field.box_size), field.plane_layout)
    texture = PlaneFeatures.apply(field.texture_planes, positions)
    shape = PlaneFeatures.apply(field.shape_planes, positions)
    features = widened_sigmoid(decoder.color_head(texture))
    sdf, *class_sdf = [mlp(shape) for mlp in (decoder.sdf_head, *decoder.class_heads)]
    gradient = sdf_gradient(sdf, flat) if with_gradient else None
    density, *class_density = [field.density(distance) for distance in (sdf, *class_sdf)]
    values = [flat, features, sdf, density, *class_sdf, *class_density]
    return [value.unflatten(1, samples) for value in values], gradient


def march(
    values: Tensor,  # [B, R, S, C]
    density: Tensor,  # [B, R, S, 1]
    depths: Tensor,  # [B, R, S, 1]
    config: RenderingConfig,
) -> tuple[Tensor, Tensor, Tensor]:  # [B, R, C], depth [B, R, 1], weights [B, R, S - 1, 1]
    """Composite values, with the mean of each interval written out."""
    weights = interval_weights(density, depths, config.density_activation)
    color, depth = [
        (weights * ((each[:, :, :-1] + each[:, :, 1:]) / 2)).sum(dim=2) for each in (values, depths)
    ]
    depth = (depth / weights.sum(dim=2)).nan_to_num(float("inf"))
    return color, depth.clamp(depths.min(), depths.max()), weights


@dataclass
class MarchedSamples(RaySamples):
    """Samples with each class's image, [B, K, 3, h, w]; gradients are in the order of passes."""

    class_images: Tensor


def marched_classes(samples: MarchedSamples, *_: Any) -> tuple[Tensor, None]:
    """Return what `render_field` has marched; to be called instead of `march_classes`."""
    return samples.class_images, None


def render_field(
    field: TriPlaneField,
    ray_origins: Tensor,  # [B, R, 3], R = h * w
    ray_directions: Tensor,  # [B, R, 3]
    config: RenderingConfig,
    *,
    draws: DepthDraws | None = None,
    with_normals: bool = False,
    detach_semantic_density: bool = True,
    **_: Any,
) -> FieldRender:
    """Render all that there is; `with_normals` adds gradients at samples, but no picture."""
    draws, size = draws or DepthDraws(), ray_origins.shape[:2]
    origins, directions = ray_origins.unsqueeze(2), ray_directions.unsqueeze(2)
    uniforms = draws.stratified_uniforms((*size, config.num_coarse_samples, 1), ray_origins)
    coarse = stratified_depths(uniforms, config.near, config.far)
    first, gradient = evaluate(field, origins + coarse * directions, with_gradient=with_normals)
    with torch.no_grad():
        _, features, _, density, *_ = first
        *_, weights = march(features, density, coarse, config)
        uniforms = draws.importance_uniforms(size.numel(), config.num_fine_samples, ray_origins)
        fine = importance_depths(coarse, weights, uniforms, config.importance_bins)
    second, other = evaluate(field, origins + fine * directions, with_gradient=with_normals)
    depths, order = torch.cat([coarse, fine], dim=2).sort(dim=2)
    points, features, sdf, density, *classes = [
        torch.cat(pair, dim=2).gather(2, order.expand(-1, -1, -1, pair[0].shape[-1]))
        for pair in zip(first, second, strict=True)
    ]
    class_sdf = torch.cat(classes[: len(classes) // 2], dim=-1)
    colors, depth, weights = march(features, density, depths, config)
    opacity = weights.sum(dim=2)
    colors = fill_colors(colors, opacity, field.background, is_white=config.white_background)
    class_images = [
        to_image(2 * march(features, one, depths, config)[0] - 1)[:, :3]
        for one in classes[len(classes) // 2 :]
    ]
    scores = class_scores(class_sdf, config.semantic_sharpness)
    seen = density.detach() if detach_semantic_density else density
    scores, _, seen = march(scores, seen, depths, config)
    scores = fill_scores(scores, seen.sum(dim=2), config.background_class)
    gradient = torch.cat([gradient, other], dim=1) if with_normals else None
    values = (depths, points, features, sdf, class_sdf, density, weights, gradient)
    return FieldRender(
        feature_image=to_image(colors),
        segmentation_raw=to_image(scores),
        depth=to_image(depth),
        opacity=to_image(opacity),
        normals=None,
        samples=MarchedSamples(*values, class_images=torch.stack(class_images, dim=1)),
    )
