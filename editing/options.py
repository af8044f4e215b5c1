"""Options of an edit: how it is optimised, its prior, and its report."""

from dataclasses import dataclass
from typing import Annotated, Literal

from editing.regions import RegionOptions
from mate3d.cameras import PitchDegrees
from mate3d.options import (
    Above,
    FilePath,
    NonNegativeFloat,
    OptionError,
    Options,
    PositiveFloat,
    PositiveInt,
    Range,
    Seed,
    Share,
)

Condition = Literal["updated", "fixed", "none"]
MaskLoss = Literal["classes", "silhouette"]
ObjectiveName = Literal["sds", "csd", "dds", "denoised"]
Blend = Literal["blended", "image", "normals"]
Weighting = Literal["variance", "uniform"]
PriorPrecision = Literal["auto", "fp32", "bf16", "fp16"]
NoiseLevel = Annotated[float, Above(0, up_to=1)]


@dataclass(frozen=True)
class LossWeights(Options):
    """Weight of each loss term; a term with weight 0 is not computed.

    Args:
        mask: Weight of the cross entropy between the final segmentation and the painted mask.
        mask_raw: Weight of the same cross entropy before super-resolution.
        distillation: Weight of the objective, by which the diffusion prior guides the edit.
        preservation: Weight of the image difference outside the region, at the painted and at
            random views.
        feature_preservation: Weight of the difference of plane features outside the region.
        other_labels: Weight of labels at the other views: each pixel must show its source's label
            or one that was painted.
        eikonal: Weight of the unit-gradient (eikonal) loss of the global SDF.
        sdf_consistency: Weight of the difference between the global SDF and the union of the parts.
    """

    mask: NonNegativeFloat = 1.0
    mask_raw: NonNegativeFloat = 1.0
    distillation: NonNegativeFloat = 1.0
    preservation: NonNegativeFloat = 1.0
    feature_preservation: NonNegativeFloat = 1.0
    other_labels: NonNegativeFloat = 1.0
    eikonal: NonNegativeFloat = 0.1
    sdf_consistency: NonNegativeFloat = 1.0


@dataclass(frozen=True)
class DenoisedOptions(Options):
    """Targets of the objective denoised.

    The defaults were chosen on the demo.

    Args:
        guidance_scale: Classifier-free guidance scale.
        noise_levels: Noise of the first and of the last targets, as fractions of the training
            timesteps; between them it changes linearly with the steps of the edit.
        num_denoising_steps: Denoiser calls per target.
        keep_outside: Whether the prior sees the rest of the picture as it is while it paints the
            region, so that black ears fit a white head.
        num_views: Fixed views that get targets, the painted one among them.
        refresh_interval: Visits of a view after which its target is made again.
        edge_weight: Weight of the difference between neighbouring pixels, beside the difference of
            the pixels themselves.
    """

    guidance_scale: NonNegativeFloat = 8.0
    noise_levels: tuple[NoiseLevel, NoiseLevel] = (1.0, 0.5)
    num_denoising_steps: PositiveInt = 8
    keep_outside: bool = True
    num_views: PositiveInt = 12
    refresh_interval: PositiveInt = 2
    edge_weight: NonNegativeFloat = 0.5


@dataclass(frozen=True)
class ObjectiveOptions(Options):
    """What the diffusion prior wants of a view; the objective is chosen by edit.objective.

    Args:
        controlnet_conditioning_scale: ControlNet conditioning scale, the weight of the mask
            condition.
        guidance_scale: Classifier-free guidance scale (sds, csd, dds).
        timestep_range: Minimum and maximum timestep, as fractions of the training steps (sds, csd,
            dds).
        final_max_timestep: Fraction to which the maximum timestep falls linearly by the last step;
            set it to the maximum of timestep_range for no annealing (sds, csd, dds).
        weighting: Weight w(t) of a timestep; variance is 1 - alphas_cumprod, uniform is 1 (sds,
            csd, dds).
        blend: Encodings to distil. blended mixes image and normals with a share drawn from U(0, 1)
            at each step; image and normals use one of them (sds, csd).
        source_prompt: Prompt that describes the source head (dds).
        view_words: Words that end all prompts by the direction of view, evenly spaced from the
            front to behind. [front view,side view,back view] uses the first up to 45 degrees of
            yaw, and the last from 135. Without any, prompts are the same from all sides.
        denoised: Targets (denoised).
    """

    controlnet_conditioning_scale: NonNegativeFloat = 1.0
    guidance_scale: NonNegativeFloat = 7.5
    timestep_range: tuple[Share, Share] = (0.02, 0.98)
    final_max_timestep: Share = 0.5
    weighting: Weighting = "variance"
    blend: Blend = "blended"
    source_prompt: str = ""
    view_words: tuple[str, ...] = ()
    denoised: DenoisedOptions = DenoisedOptions()

    def __post_init__(self):
        super().__post_init__()
        smallest, largest = self.timestep_range
        if smallest >= largest:
            advice = "use [minimum,maximum] with the minimum below the maximum"
            raise OptionError("timestep_range", self.timestep_range, advice)
        if not smallest < self.final_max_timestep <= largest:
            advice = f"use a number {Range(smallest, largest, with_low=False)}"
            raise OptionError("final_max_timestep", self.final_max_timestep, advice)


@dataclass(frozen=True)
class EditOptions(Options):
    """How an edit is optimised; the defaults are `edit=best`, `edit=cdgt` is the paper's method.

    Rates, weights and shares were tuned on the demo generator, and tried on one with distances 20
    times as steep, one of twice the size, and one whose surfaces are a fog as in the release.

    Args:
        exact: Render whole views instead of only what the edit can reach; equal up to rounding, and
            several times slower.
        seed: Seed of all random draws: views, noise and timesteps. null takes the source's seed.
        num_steps: Optimizer steps; each renders one painted view and one other view.
        learnable: What is optimised, separated by commas: ws (the style vectors), texture and shape
            (offsets on the two planes), and names of backbone modules or weights.
        ws_share: Share of the steps, from the first, that move ws alone.
        ws_lr: Adam learning rate of the style vectors.
        weight_lr: Adam learning rate of the backbone weights.
        texture_lr: Adam learning rate of the offset on the texture planes, in standard deviations
            of the head's planes.
        shape_lr: The same for the shape planes.
        final_lr_factor: Factor to which all learning rates fall linearly by the last step.
        soft_thickness: Minimum thickness of surfaces during the first steps, as a share of the
            head's size, because sharp surfaces hardly move. null keeps them as they are.
        soft_share: Share of the steps that use soft_thickness.
        region: Where the edit may act.
        prior_moves_shape: Whether the objective moves the offset on the shape planes too.
        condition: Mask that conditions the prior at other views. updated renders the edited head's
            mask at each step, fixed uses the source's, none uses the prompt alone.
        mask_loss: Labels to compare with the painted mask: all (classes), or only head and
            background (silhouette).
        zone_weight: Weight of pixels near the edited classes in the mask loss.
        outside_weight: Weight of all other pixels in the mask loss.
        zone_dilation: Width of the rim around the edited classes that counts as near, as a share of
            the image's side.
        yaw_range_degrees: Minimum and maximum yaw of the other views.
        pitch_range_degrees: Minimum and maximum pitch of the other views.
        num_geometry_points: Random points per step at which the terms on distances and features
            are evaluated.
        weights: Weights of the loss terms.
        objective: How the diffusion prior guides the edit: sds (score distillation, the paper's),
            csd (classifier score distillation), dds (delta denoising score) or denoised (denoised
            pictures as targets).
        distillation: Options of the objective.
    """

    exact: bool = False
    seed: Seed | None = None
    num_steps: PositiveInt = 80
    learnable: tuple[str, ...] = ("texture", "shape")
    ws_share: Share = 0.0
    ws_lr: NonNegativeFloat = 0.002
    weight_lr: NonNegativeFloat = 0.002
    texture_lr: NonNegativeFloat = 0.035
    shape_lr: NonNegativeFloat = 0.02
    final_lr_factor: Share = 0.1
    soft_thickness: PositiveFloat | None = 0.045
    soft_share: Share = 0.6
    region: RegionOptions = RegionOptions()
    prior_moves_shape: bool = False
    condition: Condition = "updated"
    mask_loss: MaskLoss = "classes"
    zone_weight: NonNegativeFloat = 1.0
    outside_weight: NonNegativeFloat = 0.2
    zone_dilation: Share = 0.05
    yaw_range_degrees: tuple[float, float] = (-35.0, 35.0)
    pitch_range_degrees: tuple[PitchDegrees, PitchDegrees] = (-15.0, 15.0)
    num_geometry_points: PositiveInt = 4096
    weights: LossWeights = LossWeights()
    objective: ObjectiveName = "denoised"
    distillation: ObjectiveOptions = ObjectiveOptions()

    def __post_init__(self):
        super().__post_init__()
        if not self.learnable:
            raise OptionError("learnable", (), "use at least one item, such as [ws]")
        if self.ws_share and "ws" not in self.learnable:
            raise OptionError("ws_share", self.ws_share, "add ws to edit.learnable")
        for name in ("yaw_range_degrees", "pitch_range_degrees"):
            low, high = getattr(self, name)
            if low > high:
                raise OptionError(name, (low, high), "use [minimum,maximum]")


@dataclass(frozen=True)
class GuidanceOptions(Options):
    """The diffusion prior that guides an edit.

    Args:
        prior: Stable Diffusion 1.x or 2.x: a folder in diffusers' format, one file (.safetensors,
            .ckpt), a Hugging Face hub id, or demo_prior, which comes with the project.
        controlnet: ControlNet on coloured label maps, in one of these places; null uses the prior's
            own.
        controlnet_subfolder: Folder of the ControlNet there; null if it holds only one.
        vae: Autoencoder in place of the prior's own, such as a tiny one; null keeps it.
        variant: Variant of the files, such as fp16; null takes what fits the precision.
        palette: Colours of labels on which the ControlNet was trained: a label set, or a YAML file
            with lines such as "ears: [76, 153, 0]"; null takes those of the generator's labels.
        precision: Precision of the prior's networks; auto is fp16 on a GPU and bf16 on a CPU.
        checkpointing: Compute the image encoder's values again for its gradient (sds, csd, dds)
            instead of keeping them: at 512 px in half precision 1.5 GiB less, for 1.4 times the
            encoder's time. A tiny autoencoder does not need it.
        compile: Compile denoiser and ControlNet (torch.compile): the first call takes minutes, and
            later ones are faster on a GPU.
    """

    prior: FilePath = "demo_prior"
    controlnet: FilePath | None = None
    controlnet_subfolder: str | None = None
    vae: FilePath | None = None
    variant: str | None = None
    palette: FilePath | None = None
    precision: PriorPrecision = "fp32"
    checkpointing: bool = False
    compile: bool = False


@dataclass(frozen=True)
class ReportOptions(Options):
    """The report on a finished edit.

    Args:
        rim: Pixels this close to repainted pixels or edited classes are part of the region in
            receipt.json, as a share of the picture's side.
        clip: CLIP that scores pictures against the prompt: a folder, or a hub id in the local
            cache; null uses none.
        num_orbit_frames: Frames of orbit.mp4.
        orbit_fps: Frames per second of orbit.mp4.
    """

    rim: Share = 0.03
    clip: FilePath | None = None
    num_orbit_frames: PositiveInt = 48
    orbit_fps: Annotated[int, Range(1, 240)] = 24
