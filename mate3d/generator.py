"""The generator: latent -> style vectors -> tri-planes -> rendered field -> super-resolution."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mate3d.cameras import CAMERA_DIM
from mate3d.checkpoints.pretrained import PretrainedModel
from mate3d.generator_config import GeneratorConfig, check_geometry
from mate3d.labels import LabelSet, get_label_set
from mate3d.network.density_decoder import DensityDecoder
from mate3d.network.layers import FullyConnected, Noise
from mate3d.network.mapping import MappingNetwork
from mate3d.network.sdf_decoder import SDFDecoder
from mate3d.network.synthesis import PlaneBackbone, SuperResolution, superresolve, synthesize_planes
from mate3d.rendering.fast_rendering import render_field_fast
from mate3d.rendering.field import Field
from mate3d.rendering.rays import DepthDraws, sample_rays
from mate3d.rendering.renderer import FieldRender, RaySamples, least_beta, render_field
from mate3d.rendering.triplane import TriPlaneField


@dataclass
class RenderOutput:
    """One view of a head.

    Args:
        image: Super-resolved colour, [B, 3, H, W] in about -1..1.
        image_raw: Rendered colour, [B, 3, h, w].
        segmentation: Super-resolved class scores, [B, K, H, W] in about -1..1; None if the
            generator is unlabelled or `with_segmentation` is false.
        segmentation_raw: Rendered class scores, [B, K, h, w] in -1..1, or None as above.
        depth: Expected distance along the ray, [B, 1, h, w], in world units.
        opacity: Accumulated compositing weight, [B, 1, h, w] in 0..1.
        normals: World normals with length at most 1, [B, 3, h, w], if requested.
        samples: Values at every sample of every ray, if requested.
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
    """SDF portrait generator with a global SDF and one local SDF per class (MaTe3D, section 3).

    With geometry "density", a single plane branch and no labels it is EG3D's generator.

    Raises:
        UserError: If geometry options contradict each other.
    """

    config_type = GeneratorConfig

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        check_geometry(config)
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
        """Label set of the segmentation channels; it has no classes if unlabelled."""
        return get_label_set(self.config.label_set)

    @property
    def num_ws(self) -> int:
        """Number of style rows L in `ws`."""
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
        noise_mode: Noise = "const",
        exact: bool = True,
    ) -> tuple[Tensor, Tensor]:  # texture_planes, shape_planes: [B, 3, C, P, P]
        """Return the two tri-planes, which can be reused for every view of the head.

        With a single plane branch both are the same tensor.

        Args:
            noise_mode: Backbone noise: a mode, or one tensor per convolution (`noise_sides`).
            exact: See `render`.
        """
        if exact:
            return self.backbone(ws, noise_mode)
        _check_no_gradients(ws)
        return synthesize_planes(self.backbone, ws, noise_mode)

    def make_field(
        self,
        ws: Tensor,  # [B, L, w_dim]
        planes: tuple[Tensor, Tensor] | None = None,
        *,
        noise_mode: Noise = "const",
        exact: bool = True,
    ) -> TriPlaneField:
        """Return the head as a field.

        Args:
            planes: Texture and shape planes, if already computed from `ws`.
            noise_mode: Backbone noise if `planes` is None.
            exact: See `render`.
        """
        if planes is None:
            planes = self.make_planes(ws, noise_mode=noise_mode, exact=exact)
        texture_planes, shape_planes = planes
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
        field: Field,
        ws: Tensor,  # [B, L, w_dim]
        camera: Tensor,  # [B, 25]
        *,
        neural_rendering_resolution: int | None = None,
        draws: DepthDraws | None = None,
        depths: Tensor | None = None,  # [B, R, S, 1]
        with_normals: bool = False,
        with_samples: bool = False,
        with_segmentation: bool = True,
        detach_semantic_density: bool = True,
        detach_semantic_features: bool = True,
        exact: bool = True,
    ) -> RenderOutput:
        """Render a field and super-resolve it; see `render_field`.

        Args:
            field: This generator's field, a fusion of fields, or any other with the same number
                of features.
            ws: Style vectors for the super-resolution.
            neural_rendering_resolution: Side of the raw render; None uses the configured one.
            with_segmentation: False skips the segmentation's super-resolution and, unless
                `exact`, class distances.
            detach_semantic_features: Stop gradients from the segmentation's super-resolution to
                the feature image, as in the released code.
            exact: False uses a path that is several times faster and records no gradients: it
                skips samples that barely contribute and reorders the networks for speed. PSNR to
                the exact images is at least 50 dB (68 dB or more as measured).

        Raises:
            ValueError: If `exact` is false and per-sample values are requested or the style
                vectors require gradients.
        """
        side = neural_rendering_resolution or self.config.neural_rendering_resolution
        rays = sample_rays(camera, side)
        options = {
            "draws": draws,
            "depths": depths,
            "with_normals": with_normals,
            "with_segmentation": with_segmentation,
        }
        if exact:
            view = render_field(
                field,
                *rays,
                self.config.rendering,
                **options,
                with_samples=with_samples,
                detach_semantic_density=detach_semantic_density,
            )
        else:
            if with_samples:
                raise ValueError("with_samples=True needs exact=True, which evaluates all samples")
            view = render_field_fast(field, *rays, self.config.rendering, **options)
        return self.superresolve(
            view, ws, detach_semantic_features=detach_semantic_features, exact=exact
        )

    def superresolve(
        self,
        view: FieldRender,
        ws: Tensor,  # [B, L, w_dim]
        *,
        detach_semantic_features: bool = True,
        semantic_features: Tensor | None = None,  # [B, F, h, w]
        exact: bool = True,
        enlarge: Callable[..., Tensor] | None = None,
    ) -> RenderOutput:
        """Turn a rendered field into a full-size image and segmentation; see `render`.

        Args:
            view: Rendered with h * w rays.
            detach_semantic_features: See `render`.
            semantic_features: Feature image for the segmentation instead of the view's own.
            exact: See `render`.
            enlarge: Called instead of a super-resolution network, with the network and its inputs.
        """
        if not exact:
            _check_no_gradients(ws)
        enlarge = enlarge or (SuperResolution.__call__ if exact else superresolve)
        features = view.feature_image
        image_raw = features[:, :3]
        # The image comes first: its random noise must not depend on whether there is a
        # segmentation.
        image = enlarge(self.superresolution, image_raw, features, ws)
        segmentation = None
        if view.segmentation_raw is not None and self.segmentation_superresolution is not None:
            if semantic_features is None:
                semantic_features = features.detach() if detach_semantic_features else features
            segmentation = enlarge(
                self.segmentation_superresolution, view.segmentation_raw, semantic_features, ws
            )
        return RenderOutput(
            image=image,
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
        noise_mode: Noise = "const",
        neural_rendering_resolution: int | None = None,
        draws: DepthDraws | None = None,
        with_normals: bool = False,
        with_samples: bool = False,
        exact: bool = True,
    ) -> RenderOutput:
        """Make the planes of style vectors and render them; see `render`."""
        return self.render(
            self.make_field(ws, noise_mode=noise_mode, exact=exact),
            ws,
            camera,
            neural_rendering_resolution=neural_rendering_resolution,
            draws=draws,
            with_normals=with_normals,
            with_samples=with_samples,
            exact=exact,
        )

    def forward(
        self,
        z: Tensor,  # [B, z_dim]
        camera: Tensor,  # [B, 25]
        *,
        conditioning_camera: Tensor | None = None,  # [B, 25]; None uses `camera`
        truncation_psi: float = 1.0,
        exact: bool = True,
    ) -> RenderOutput:
        """Generate heads from latents and render them; see `render`."""
        condition = camera if conditioning_camera is None else conditioning_camera
        ws = self.map(z, condition, truncation_psi=truncation_psi)
        return self.synthesize(ws if exact else ws.detach(), camera, exact=exact)


def _check_no_gradients(ws: Tensor) -> None:
    if torch.is_grad_enabled() and ws.requires_grad:
        raise ValueError("exact=False records no gradients, but the style vectors require them")


def _make_decoder(config: GeneratorConfig, num_classes: int) -> SDFDecoder | DensityDecoder:
    sizes = (config.plane_channels, config.hidden_width, config.num_features, num_classes)
    if config.geometry == "density":
        return DensityDecoder(
            *sizes,
            density_level=config.density_level,
            with_joint_head=config.plane_branches == "single",
            with_local_sdfs=config.with_local_sdfs,
        )
    return SDFDecoder(
        *sizes,
        beta=config.beta,
        least_beta=least_beta(config.rendering) if config.learn_beta else None,
        with_local_sdfs=config.with_local_sdfs,
    )
