"""Plane features -> colour and raw density as in EG3D, seen as a pseudo distance."""

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

    The rest of the project looks at geometry through distances. This decoder shows the pseudo
    distance `density_level - raw`: negative where the density exceeds the level at which shapes
    are extracted, so that meshes and normals follow as from an SDF, but in units of density, not
    of length. `density` gives the raw density back, negative values included; the marcher's
    `softplus_shifted` makes them absorption.

    Args:
        plane_channels: Features looked up at a point.
        hidden_width: Width of every MLP's hidden layer.
        num_features: Colour features; the first three are RGB.
        num_classes: Label classes K; their MLPs give signed distances, read by the segmentation.
        density_level: Raw density of the surface; EG3D extracts shapes at 10.
        with_joint_head: One MLP gives density, then colours, from the same features, as in EG3D.
            Otherwise colours have an MLP of their own, which reads the texture features.
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
        """Return the raw density that a pseudo distance stands for."""
        return self.density_level - sdf
