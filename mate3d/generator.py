"""The main path: latent -> style vectors -> planes -> rendered field -> super-resolved image."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mate3d.backbone import PlaneBackbone, PlaneBranches
from mate3d.cameras import CameraRig
from mate3d.density_decoder import DensityDecoder
from mate3d.errors import UserError
from mate3d.field import Field, TriPlaneField
from mate3d.labels import LabelSet, get_label_set
from mate3d.layers import FullyConnected, NoiseMode
from mate3d.mapping import MappingNetwork
from mate3d.pretrained import PretrainedModel
from mate3d.rays import DepthDraws, sample_rays
from mate3d.renderer import FieldRender, RaySamples, RenderingConfig, render_field
from mate3d.sdf_decoder import SDFDecoder
from mate3d.superresolution import SuperResolution
from mate3d.triplane import PlaneLayout

CAMERA_DIM = 25

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
        plane_layout: Axes of the planes, see `mate3d.triplane`: "eg3d_legacy" is what published
            weights were trained with, "xy_xz_zy" what they were after that slip was corrected.
        channel_base: Backbone channels at resolution r are min(channel_base / r, channel_max).
        channel_max: See `channel_base`.
        backbone_clamp: Limit of the backbone's activations; None is none.
        hidden_width: Hidden width of every decoder head.
        num_features: Rendered colour features.
        geometry: "sdf" decodes signed distances; "density" decodes a raw density as EG3D does,
            shown as a pseudo distance (see `DensityDecoder`), and needs the rendering's
            density_activation "softplus_shifted".
        plane_branches: "dual" makes a tri-plane for texture and one for shape; "single" makes one
            for both, as EG3D does.
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


@dataclass
class RenderOutput:
    """One view of a head.

    Args:
        image: Super-resolved colour, [B, 3, H, W] in about -1..1.
        image_raw: Rendered colour, [B, 3, h, w].
        segmentation: Super-resolved class scores, [B, K, H, W] in about -1..1; None if the
            generator is unlabelled.
        segmentation_raw: Rendered class scores, [B, K, h, w] in -1..1; None without classes.
        depth: Expected distance along the ray, [B, 1, h, w], world units.
        opacity: Share of light that the head absorbs, [B, 1, h, w] in 0..1.
        normals: World normals with length at most 1, [B, 3, h, w], on request.
        samples: Values at every sample of every ray, on request.
    """

    image: Tensor
    image_raw: Tensor
    segmentation: Tensor | None
    segmentation_raw: Tensor | None
    depth: Tensor
    opacity: Tensor
    normals: Tensor | None = None
    samples: RaySamples | None = None


class Generator(nn.Module, PretrainedModel):
    """SDF portrait generator with global and local distances (MaTe3D, section 3).

    With geometry "density", a single plane branch and no labels it is EG3D's generator.

    Raises:
        UserError: If options of the geometry contradict each other.
    """

    config_type = GeneratorConfig

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        _check_geometry(config)
        self.config = config
        num_classes = self.label_set.num_classes
        self.backbone = PlaneBackbone(
            config.w_dim,
            config.plane_resolution,
            config.plane_channels,
            channel_base=config.channel_base,
            channel_max=config.channel_max,
            branches=config.plane_branches,
            clamp=config.backbone_clamp,
        )
        self.mapping = MappingNetwork(
            config.z_dim,
            CAMERA_DIM,
            config.w_dim,
            config.mapping_layers,
            num_ws=self.backbone.num_ws,
            lr_multiplier=config.mapping_lr_multiplier,
        )
        self.decoder = _make_decoder(config, num_classes)
        self.background_head = (
            FullyConnected(config.w_dim, config.num_features)
            if config.background == "learned"
            else None
        )
        self.superresolution = self._make_superresolution(3)
        self.segmentation_superresolution = (
            self._make_superresolution(num_classes) if num_classes > 0 else None
        )

    def _make_superresolution(self, image_channels: int) -> SuperResolution:
        config = self.config
        return SuperResolution(
            config.num_features,
            image_channels,
            config.w_dim,
            input_resolution=config.sr_input_resolution,
            output_resolution=config.resolution,
            channels=config.sr_channels,
            noise_mode=config.sr_noise_mode,
            clamp=config.sr_clamp,
        )

    @property
    def label_set(self) -> LabelSet:
        """The label set that the segmentation channels follow; without classes if unlabelled."""
        return get_label_set(self.config.label_set)

    @property
    def num_ws(self) -> int:
        """Rows L of `ws`."""
        return self.backbone.num_ws

    def map(
        self,
        z: Tensor,  # [B, z_dim]
        camera: Tensor,  # [B, 25]
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:  # [B, L, w_dim]
        """Map latents and conditioning cameras to style vectors (spec 4)."""
        return self.mapping(
            z,
            camera * self.config.camera_scale,
            truncation_psi=truncation_psi,
            truncation_cutoff=truncation_cutoff,
        )

    def make_planes(
        self,
        ws: Tensor,  # [B, L, w_dim]
        *,
        noise_mode: NoiseMode = "const",
    ) -> tuple[Tensor, Tensor]:  # texture_planes, shape_planes: [B, 3, C, P, P]
        """Return the two tri-planes, which serve every view of the same head.

        With a single plane branch both are the same tensor.
        """
        return self.backbone(ws, noise_mode)

    def make_field(
        self,
        ws: Tensor,  # [B, L, w_dim]
        planes: tuple[Tensor, Tensor] | None = None,
        *,
        noise_mode: NoiseMode = "const",
    ) -> TriPlaneField:
        """Return the head as a field.

        Args:
            ws: Style vectors.
            planes: Texture and shape planes when already made from `ws`.
            noise_mode: Backbone noise when they are not.
        """
        texture_planes, shape_planes = planes or self.make_planes(ws, noise_mode=noise_mode)
        background = None
        if self.background_head is not None:
            background = torch.sigmoid(self.background_head(ws[:, -1]))
        return TriPlaneField(
            decoder=self.decoder,
            texture_planes=texture_planes,
            shape_planes=shape_planes,
            box_size=self.config.box_size,
            plane_layout=self.config.plane_layout,
            background=background,
        )

    def render(
        self,
        head: Field,
        ws: Tensor,  # [B, L, w_dim]
        camera: Tensor,  # [B, 25]
        *,
        neural_rendering_resolution: int | None = None,
        draws: DepthDraws | None = None,
        depths: Tensor | None = None,  # [B, R, S, 1]
        with_normals: bool = False,
        with_samples: bool = False,
        detach_semantic_density: bool = True,
        detach_semantic_features: bool = True,
    ) -> RenderOutput:
        """Render a field and super-resolve it.

        Args:
            head: This generator's field, a fusion of fields, or any other with as many features.
            ws: Style vectors of the super-resolution.
            camera: Viewpoints.
            neural_rendering_resolution: Side of the raw render; None is the configured one.
            draws: See `render_field`.
            depths: See `render_field`.
            with_normals: See `render_field`.
            with_samples: See `render_field`.
            detach_semantic_density: See `render_field`.
            detach_semantic_features: Keep the segmentation's super-resolution from training the
                feature image, as released.
        """
        side = neural_rendering_resolution or self.config.neural_rendering_resolution
        ray_origins, ray_directions = sample_rays(camera, side)
        view = render_field(
            head,
            ray_origins,
            ray_directions,
            self.config.rendering,
            draws=draws,
            depths=depths,
            with_normals=with_normals,
            with_samples=with_samples,
            detach_semantic_density=detach_semantic_density,
        )
        return self.superresolve(view, ws, detach_semantic_features=detach_semantic_features)

    def superresolve(
        self,
        view: FieldRender,
        ws: Tensor,  # [B, L, w_dim]
        *,
        detach_semantic_features: bool = True,
    ) -> RenderOutput:
        """Turn a rendered field into full-size image and segmentation."""
        features = view.feature_image
        image_raw = features[:, :3]
        segmentation = None
        if self.segmentation_superresolution is not None:
            semantic_features = features.detach() if detach_semantic_features else features
            segmentation = self.segmentation_superresolution(
                view.segmentation_raw, semantic_features, ws
            )
        return RenderOutput(
            image=self.superresolution(image_raw, features, ws),
            image_raw=image_raw,
            segmentation=segmentation,
            segmentation_raw=view.segmentation_raw,
            depth=view.depth,
            opacity=view.opacity,
            normals=view.normals,
            samples=view.samples,
        )

    def synthesize(
        self,
        ws: Tensor,  # [B, L, w_dim]
        camera: Tensor,  # [B, 25]
        *,
        noise_mode: NoiseMode = "const",
        neural_rendering_resolution: int | None = None,
        draws: DepthDraws | None = None,
        with_normals: bool = False,
        with_samples: bool = False,
    ) -> RenderOutput:
        """Make planes from style vectors and render them; see `render`."""
        return self.render(
            self.make_field(ws, noise_mode=noise_mode),
            ws,
            camera,
            neural_rendering_resolution=neural_rendering_resolution,
            draws=draws,
            with_normals=with_normals,
            with_samples=with_samples,
        )

    def forward(
        self,
        z: Tensor,  # [B, z_dim]
        camera: Tensor,  # [B, 25]
        *,
        conditioning_camera: Tensor | None = None,  # [B, 25]; None takes `camera`
        truncation_psi: float = 1.0,
    ) -> RenderOutput:
        """Generate heads from latents and render them."""
        condition = camera if conditioning_camera is None else conditioning_camera
        return self.synthesize(self.map(z, condition, truncation_psi=truncation_psi), camera)


def _make_decoder(config: GeneratorConfig, num_classes: int) -> SDFDecoder | DensityDecoder:
    sizes = (config.plane_channels, config.hidden_width, config.num_features, num_classes)
    if config.geometry == "density":
        return DensityDecoder(
            *sizes,
            density_level=config.density_level,
            with_joint_head=config.plane_branches == "single",
        )
    return SDFDecoder(*sizes, beta=config.beta, learn_beta=config.learn_beta)


def _check_geometry(config: GeneratorConfig) -> None:
    for name, kind in (("geometry", Geometry), ("plane_branches", PlaneBranches)):
        value, allowed = getattr(config, name), get_args(kind)
        if value not in allowed:
            raise UserError(f"{name}={value}; use {' or '.join(allowed)}")
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
