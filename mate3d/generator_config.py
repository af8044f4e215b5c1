"""The configuration of a generator, as stored in checkpoints."""

from dataclasses import dataclass
from typing import Literal

from mate3d.cameras import CameraRig
from mate3d.errors import UserError
from mate3d.network.layers import NoiseMode
from mate3d.network.synthesis import PlaneBranches
from mate3d.options import NonNegativeFloat, Options, PositiveFloat, PositiveInt
from mate3d.rendering.renderer import RenderingConfig
from mate3d.rendering.triplane import PlaneLayout

Geometry = Literal["sdf", "density"]


@dataclass(frozen=True)
class GeneratorSizes(Options):
    """Sizes and conventions of a generator, except its rendering, as published by default.

    Args:
        label_set: Label set of the masks; sets the number of classes.
        z_dim: Width of latents.
        w_dim: Width of style vectors.
        mapping_layers: Layers of the mapping network after the camera embedding.
        mapping_lr_multiplier: Learning rate multiplier of the mapping network.
        camera_scale: Factor on the conditioning camera; 0 disables pose conditioning.
        plane_resolution: Resolution of the planes.
        plane_channels: Channels of each plane.
        plane_layout: Axes of the planes. eg3d_legacy, whose third plane repeats the axes of the
            second, is for weights of the MaTe3D and EG3D releases; xy_xz_zy for weights that EG3D
            trained after correcting that.
        channel_base: Backbone channels at resolution r are min(channel_base / r, channel_max).
        channel_max: Maximum number of backbone channels.
        backbone_clamp: Clamp on the backbone's activations; null disables it.
        hidden_width: Hidden width of every decoder MLP.
        num_features: Number of rendered colour features.
        geometry: sdf decodes signed distances. density decodes a raw density as EG3D does, and
            needs loss=density rendering=released.
        plane_branches: dual makes one tri-plane for texture and one for shape, single makes one for
            both, as EG3D does. Works with either geometry.
        with_local_sdfs: Decode one signed distance per class (local SDFs). With false, one MLP
            decodes the logits of all classes, a semantic field without shapes, which needs
            rendering.semantic_sharpness=1 and no consistency terms (see ablation=no_local_sdfs).
        density_level: Raw density at the surface; only used with geometry=density.
        box_size: Side of the cube that the planes span, in world units.
        beta: Surface softness when distances become densities, in world units.
        learn_beta: Train beta instead of keeping it fixed; it stays above a quarter of the distance
            between samples at a surface, which is all that they resolve.
        background: Background: transparent, or learned from the style vector, for plain
            backgrounds.
        neural_rendering_resolution: Default resolution of raw renders, in pixels.
        sr_input_resolution: Resolution that raw renders are resized to before super-resolution, in
            pixels.
        resolution: Resolution of final images, in pixels.
        sr_channels: Channels of the super-resolution blocks.
        sr_noise_mode: Noise in the super-resolution blocks.
        sr_clamp: Clamp on the super-resolution's activations; null disables it.
        camera_rig: Cameras that frame the portraits; the defaults of all views.
    """

    label_set: str = "celebamask_hq"
    z_dim: PositiveInt = 512
    w_dim: PositiveInt = 512
    mapping_layers: PositiveInt = 2
    mapping_lr_multiplier: PositiveFloat = 0.01
    camera_scale: NonNegativeFloat = 1.0
    plane_resolution: PositiveInt = 256
    plane_channels: PositiveInt = 32
    plane_layout: PlaneLayout = "xy_xz_yz"
    channel_base: PositiveInt = 32768
    channel_max: PositiveInt = 512
    backbone_clamp: PositiveFloat | None = None
    hidden_width: PositiveInt = 64
    num_features: PositiveInt = 32
    geometry: Geometry = "sdf"
    plane_branches: PlaneBranches = "dual"
    with_local_sdfs: bool = True
    density_level: float = 10.0
    box_size: PositiveFloat = 1.0
    beta: PositiveFloat = 0.1
    learn_beta: bool = False
    background: Literal["transparent", "learned"] = "transparent"
    neural_rendering_resolution: PositiveInt = 128
    sr_input_resolution: PositiveInt = 128
    resolution: PositiveInt = 512
    sr_channels: tuple[PositiveInt, ...] = (256, 128)
    sr_noise_mode: NoiseMode = "none"
    sr_clamp: PositiveFloat | None = 256.0
    camera_rig: CameraRig = CameraRig()


@dataclass(frozen=True)
class GeneratorConfig(GeneratorSizes):
    """Everything that rebuilds a generator.

    Args:
        rendering: Ranges, sample counts and conventions of the renderer.
    """

    rendering: RenderingConfig = RenderingConfig()


def check_geometry(config: GeneratorConfig) -> None:
    """Check that geometry options do not contradict each other.

    Raises:
        UserError: If they do.
    """
    if config.geometry == "sdf":
        return
    activation = config.rendering.density_activation
    if activation != "softplus_shifted":
        raise UserError(
            f"geometry=density with rendering.density_activation={activation}: raw densities can "
            "be negative; use softplus_shifted, or geometry=sdf"
        )
    if config.learn_beta:
        raise UserError(
            "geometry=density with learn_beta=true: a density has no beta; use learn_beta=false, "
            "or geometry=sdf"
        )
