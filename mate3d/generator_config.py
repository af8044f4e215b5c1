"""The configuration of a generator, as stored in checkpoints."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from mate3d.cameras import CameraRig
from mate3d.errors import UserError
from mate3d.network.layers import NoiseMode
from mate3d.network.synthesis import PlaneBranches
from mate3d.option_checks import check_choice
from mate3d.rendering.renderer import RenderingConfig
from mate3d.rendering.triplane import PlaneLayout

Geometry = Literal["sdf", "density"]


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything that rebuilds a generator; the defaults are the published sizes (spec 1).

    Args:
        label_set: Name of the label set; fixes the number of classes K.
        z_dim: Latent width.
        w_dim: Style width.
        mapping_layers: Layers of the mapping network after the camera embedding.
        mapping_lr_multiplier: Slows learning of the mapping network.
        camera_scale: Factor on the conditioning camera; 0 switches pose conditioning off.
        plane_resolution: Side of the planes.
        plane_channels: Channels of each plane.
        plane_layout: Axes of the planes, see `mate3d.rendering.triplane`: "eg3d_legacy" is what
            published weights were trained with, "xy_xz_zy" what they were after that slip was
            corrected.
        channel_base: Backbone channels at resolution r are min(channel_base / r, channel_max).
        channel_max: See `channel_base`.
        backbone_clamp: Limit of the backbone's activations; None is none.
        hidden_width: Hidden width of every MLP of the decoder.
        num_features: Rendered colour features.
        geometry: "sdf" decodes signed distances; "density" decodes a raw density as EG3D does,
            shown as a pseudo distance (see `DensityDecoder`), and needs the rendering's
            density_activation "softplus_shifted".
        plane_branches: "dual" makes a tri-plane for texture and one for shape; "single" makes one
            for both, as EG3D does.
        with_local_sdfs: Decode a signed distance a class, each by an MLP of its own. False decodes
            the logits of all classes by one MLP, as a semantic field without shapes: `class_sdf`
            then holds pseudo distances, -logit, which need semantic_sharpness 1.
        density_level: Raw density of the surface; only read for geometry "density".
        box_size: Side of the cube that the planes span, world units.
        beta: Initial sharpness length of SDF -> density, world units.
        learn_beta: Train beta instead of keeping it.
        background: "transparent" leaves what shines through to the rendering config; "learned"
            predicts its features from w, for portraits on plain backgrounds.
        neural_rendering_resolution: Default side of raw renders.
        sr_input_resolution: Side that raw renders are resized to before super-resolution.
        resolution: Side of final images.
        sr_channels: Channels of the super-resolution blocks.
        sr_noise_mode: Noise of the super-resolution blocks.
        sr_clamp: Limit of the super-resolution's activations; None is none.
        camera_rig: The cameras that portraits are framed by.
        rendering: Ranges, sample counts and conventions of the renderer.
    """

    label_set: str = "celebamask_hq"
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 2
    mapping_lr_multiplier: float = 0.01
    camera_scale: float = 1.0
    plane_resolution: int = 256
    plane_channels: int = 32
    plane_layout: PlaneLayout = "xy_xz_yz"
    channel_base: int = 32768
    channel_max: int = 512
    backbone_clamp: float | None = None
    hidden_width: int = 64
    num_features: int = 32
    geometry: Geometry = "sdf"
    plane_branches: PlaneBranches = "dual"
    with_local_sdfs: bool = True
    density_level: float = 10.0
    box_size: float = 1.0
    beta: float = 0.1
    learn_beta: bool = False
    background: Literal["transparent", "learned"] = "transparent"
    neural_rendering_resolution: int = 128
    sr_input_resolution: int = 128
    resolution: int = 512
    sr_channels: tuple[int, ...] = (256, 128)
    sr_noise_mode: NoiseMode = "none"
    sr_clamp: float | None = 256.0
    camera_rig: CameraRig = field(default_factory=CameraRig)
    rendering: RenderingConfig = field(default_factory=RenderingConfig)


def check_geometry(config: GeneratorConfig) -> None:
    """Check that geometry options do not contradict each other.

    Raises:
        UserError: If they do.
    """
    for name, kind in (("geometry", Geometry), ("plane_branches", PlaneBranches)):
        check_choice(name, getattr(config, name), get_args(kind))
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
