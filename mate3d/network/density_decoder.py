"""Plane features -> colour and EG3D's raw density, exposed as a pseudo distance."""

from torch import Tensor, nn

from mate3d.network.sdf_decoder import (
    evaluate_class_mlps,
    evaluate_mlps,
    feature_gradient,
    make_class_mlps,
    make_mlp,
    widened_sigmoid,
)


class DensityDecoder(nn.Module):
    """A decoder whose geometry is a raw density instead of a signed distance (EG3D, section 4.3).

    The rest of the project works with distances, so this decoder returns the pseudo distance
    `density_level - raw`. It is negative where the density exceeds the level of the extracted
    surface, so meshes and normals work as with an SDF, but its unit is density, not length.
    `density` recovers the raw density, including negative values; the renderer's
    `softplus_shifted` turns them into absorption.

    Args:
        plane_channels: Features per point.
        num_features: Colour features; the first three are RGB.
        num_classes: Label classes K; the segmentation reads their signed distances.
        density_level: Raw density at the surface; EG3D extracts shapes at 10.
        with_joint_head: Decode density and colours with one MLP, as in EG3D. Otherwise a separate
            MLP decodes colours from the texture features.
        with_local_sdfs: See `make_class_mlps`.
    """

    def __init__(
        self,
        plane_channels: int,
        hidden_width: int,
        num_features: int,
        num_classes: int,
        *,
        density_level: float = 10.0,
        with_joint_head: bool = True,
        with_local_sdfs: bool = True,
    ):
        super().__init__()
        self.density_level = density_level
        num_outputs = 1 + num_features if with_joint_head else 1
        self.density_head = make_mlp(plane_channels, hidden_width, num_outputs)
        self.color_head = (
            None if with_joint_head else make_mlp(plane_channels, hidden_width, num_features)
        )
        self.num_classes = num_classes
        self.class_heads = make_class_mlps(
            plane_channels, hidden_width, num_classes, with_local_sdfs=with_local_sdfs
        )

    def colors(
        self,
        texture_features: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, F], in -0.001..1.001
        """Return colour features."""
        if self.color_head is not None:
            return widened_sigmoid(evaluate_mlps([self.color_head], texture_features))
        return widened_sigmoid(evaluate_mlps([self.density_head], texture_features)[..., 1:])

    def sdf(
        self,
        shape_features: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, 1]
        """Return the pseudo distance."""
        return self.density_level - evaluate_mlps([self.density_head], shape_features)[..., :1]

    def sdf_gradient(
        self,
        shape_features: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, C]
        """Return the gradient of the pseudo distance with respect to the features."""
        return -feature_gradient(self.density_head, shape_features)

    def distances(
        self,
        shape_features: Tensor,  # [B, N, C]
    ) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], class_sdf [B, N, K]
        """Return the pseudo distance and every class's signed distance."""
        values = evaluate_mlps([self.density_head, *self.class_heads], shape_features)
        split = values.shape[-1] - self.num_classes
        return self.density_level - values[..., :1], values[..., split:]

    def class_distances(
        self,
        shape_features: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, K]
        """Return every class's signed distance."""
        return evaluate_class_mlps(self.class_heads, shape_features)

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...], per world unit, may be negative
        """Return the raw density of a pseudo distance."""
        return self.density_level - sdf
