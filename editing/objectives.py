"""Objectives: how a frozen diffusion prior turns a view of the edited head into a loss.

`SDS`, `CSD` and `DDS` give the latents a gradient from noise predictions; `Denoised` compares the
view with a picture that the prior painted over it. All losses are means, so a weight means the
same for priors of any size.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from editing.guidance.base import Guidance, PromptEmbeds
from mate3d.errors import UserError
from mate3d.options import Above, NonNegativeFloat, OptionError, Options, PositiveInt, Range, Share

_logger = logging.getLogger(__name__)

ObjectiveName = Literal["sds", "csd", "dds", "denoised"]
Blend = Literal["blended", "image", "normals"]
Weighting = Literal["variance", "uniform"]
NoiseLevel = Annotated[float, Above(0, up_to=1)]


@dataclass(frozen=True)
class DenoisedOptions(Options):
    """Targets of the objective denoised.

    The defaults were chosen on the demo.

    Args:
        guidance_scale: Classifier-free guidance scale.
        noise_levels: Noise of the first and of the last targets, as fractions of the training
            timesteps; between them it changes linearly with the steps of the edit.
        num_denoising_steps: Denoiser calls per target.
        num_views: Fixed views that get targets, the painted one among them.
        refresh_interval: Visits of a view after which its target is made again.
        edge_weight: Weight of the difference between neighbouring pixels, beside the difference of
            the pixels themselves.
        perceptual_weight: Weight of the perceptual difference (LPIPS), which needs the weights of
            torchvision's AlexNet.
    """

    guidance_scale: NonNegativeFloat = 5.0
    noise_levels: tuple[NoiseLevel, NoiseLevel] = (0.9, 0.4)
    num_denoising_steps: PositiveInt = 8
    num_views: PositiveInt = 12
    refresh_interval: PositiveInt = 2
    edge_weight: NonNegativeFloat = 0.5
    perceptual_weight: NonNegativeFloat = 0.0


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
        denoised: Targets (denoised).
    """

    controlnet_conditioning_scale: NonNegativeFloat = 1.0
    guidance_scale: NonNegativeFloat = 7.5
    timestep_range: tuple[Share, Share] = (0.02, 0.98)
    final_max_timestep: Share = 0.5
    weighting: Weighting = "variance"
    blend: Blend = "blended"
    source_prompt: str = ""
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
class ObjectiveView:
    """A view of the edited head, and of its source.

    Args:
        image: Rendered image with its gradient, [1, 3, H, W] in [-1, 1].
        normals: Rendered normals as colours with their gradient, [1, 3, h, w] in [-1, 1]; None if
            the objective does not ask for them.
        control_image: Colour-coded label map that conditions the prior, [1, 3, H, W] in [0, 1];
            None for text only.
        source_image: The source at the same view, [1, 3, H, W] in [-1, 1].
        source_control_image: The source's label map like `control_image`.
        inside: Pixels that may change, [1, 1, H, W] bool.
        index: Which of the fixed views this is, 0 for the painted one; None for a random view.
        progress: Completed fraction of the edit, 0..1.
    """

    image: Tensor
    normals: Tensor | None
    control_image: Tensor | None
    source_image: Tensor
    source_control_image: Tensor | None
    inside: Tensor
    index: int | None
    progress: float


class Objective(Protocol):
    """Turns views into losses."""

    with_normals: bool
    """Whether views must have normals."""

    num_views: int
    """How many fixed views to visit in turn; 0 for a random view at each step."""

    def loss(self, view: ObjectiveView) -> Tensor:  # scalar
        """Return the loss of a view; its gradient reaches the image, the normals or both."""


def make_objective(
    name: ObjectiveName,
    options: ObjectiveOptions,
    guidance: Guidance,
    prompt_embeds: PromptEmbeds,
    generator: torch.Generator,
) -> Objective:
    """Return the objective of that name, and warn of options that it does not use.

    Args:
        generator: CPU random generator for noise, timesteps and shares.
    """
    kind = {"sds": SDS, "csd": CSD, "dds": DDS, "denoised": Denoised}[name]
    unused = [
        f"edit.distillation.{option}"
        for option in kind.unused
        if getattr(options, option) != getattr(ObjectiveOptions, option)
    ]
    if unused:
        _logger.warning("no effect with edit.objective=%s: %s", name, ", ".join(unused))
    return kind(options, guidance, prompt_embeds, generator)


class _PriorObjective:
    """What all objectives share: the prior, its prompt and mask conditions, and random numbers."""

    unused: ClassVar[tuple[str, ...]]
    num_views = 0
    with_normals = False

    def __init__(
        self,
        options: ObjectiveOptions,
        guidance: Guidance,
        prompt_embeds: PromptEmbeds,
        generator: torch.Generator,
    ):
        self.options, self.guidance, self.generator = options, guidance, generator
        self.prompt_embeds = prompt_embeds

    def _predict(
        self,
        noisy_latents: Tensor,  # [1, C, h, w]
        timestep: Tensor,  # [1]
        control_image: Tensor | None,  # [1, 3, H, W]
        guidance_scale: float,
        prompt_embeds: PromptEmbeds | None = None,
    ) -> Tensor:  # [1, C, h, w]
        return self.guidance.predict_noise(
            noisy_latents,
            timestep,
            prompt_embeds or self.prompt_embeds,
            control_image,
            guidance_scale=guidance_scale,
            controlnet_conditioning_scale=self.options.controlnet_conditioning_scale,
        )

    def _draw_noise(self, latents: Tensor) -> Tensor:
        return torch.randn(latents.shape, generator=self.generator).to(latents)


class SDS(_PriorObjective):
    """Score distillation (DreamFusion, Poole et al. 2022, eq. 3) of image and normals.

    The gradient of the latents z is w(t) (eps(z_t; prompt, mask) - noise) over their number, where
    z mixes the encodings of image and normals by a random share (MaTe3D's blending SDS), and eps
    includes classifier-free guidance. With the rendered mask it is MaTe3D's conditional SDS.
    """

    unused = ("source_prompt", "denoised")

    @property
    def with_normals(self) -> bool:
        return self.options.blend != "image"

    def loss(self, view: ObjectiveView) -> Tensor:
        """See `Objective`."""
        options, alphas = self.options, self.guidance.alphas_cumprod
        latents = self._encode(view)
        timestep_range = annealed_timestep_range(options, view.progress)
        timestep = sample_timestep(1, len(alphas), timestep_range, generator=self.generator)
        timestep = timestep.to(latents.device)
        noise = self._draw_noise(latents)
        noisy = add_noise(latents.detach(), noise, alphas, timestep)
        direction = self._direction(noisy, noise, timestep, view)
        weight = timestep_weight(alphas, timestep, options.weighting)
        return loss_of_gradient(latents, weight * direction)

    def _encode(self, view: ObjectiveView) -> Tensor:  # [1, C, h, w]
        share = {"image": 1.0, "normals": 0.0}.get(self.options.blend)
        if share is None:
            share = torch.rand((), generator=self.generator).item()
        # Adding noise is affine and both get the same noise and timestep, so mixing clean latents
        # equals share z_t(image) + (1 - share) z_t(normals). The gradient reaches both in shares.
        parts = (share, view.image), (1 - share, view.normals)
        return sum(part * self.guidance.encode_image(image) for part, image in parts if part)

    def _direction(
        self, noisy: Tensor, noise: Tensor, timestep: Tensor, view: ObjectiveView
    ) -> Tensor:  # [1, C, h, w]
        scale = self.options.guidance_scale
        return self._predict(noisy, timestep, view.control_image, scale) - noise


class CSD(SDS):
    """Classifier score distillation (Yu et al. 2023) of image and normals.

    The SDS gradient is (eps_neg - noise) + guidance_scale (eps_prompt - eps_neg), where eps_neg is
    the prediction for the negative prompt. Only the second term is kept: what the prompt adds,
    without the pull to the prior's average picture.
    """

    def _direction(
        self, noisy: Tensor, noise: Tensor, timestep: Tensor, view: ObjectiveView
    ) -> Tensor:  # [1, C, h, w]
        with_prompt, without = (
            self._predict(noisy, timestep, view.control_image, scale)
            for scale in (self.options.guidance_scale, 0.0)
        )
        return with_prompt - without


class DDS(SDS):
    """Delta denoising score (Hertz et al. 2023) of the image.

    From the guided prediction for the edited image it subtracts the one for the source image with
    the source's prompt and mask, under the same noise and timestep. What SDS gets wrong for any
    image cancels, and an unchanged head with an unchanged prompt has no gradient.
    """

    unused = ("blend", "denoised")
    with_normals = False

    def __init__(self, *args):
        super().__init__(*args)
        self.source_embeds = self.guidance.encode_prompt(self.options.source_prompt)

    def _encode(self, view: ObjectiveView) -> Tensor:  # [1, C, h, w]
        return self.guidance.encode_image(view.image)

    @torch.no_grad()
    def _direction(
        self, noisy: Tensor, noise: Tensor, timestep: Tensor, view: ObjectiveView
    ) -> Tensor:  # [1, C, h, w]
        scale, alphas = self.options.guidance_scale, self.guidance.alphas_cumprod
        source = self.guidance.encode_image(view.source_image)
        noisy_source = add_noise(source, noise, alphas, timestep)
        control = view.source_control_image
        reference = self._predict(noisy_source, timestep, control, scale, self.source_embeds)
        return self._predict(noisy, timestep, view.control_image, scale) - reference


class Denoised(_PriorObjective):
    """Denoised pictures as targets.

    As in SDEdit (Meng et al. 2022), the render is noised to some level and denoised under prompt
    and mask. As in the dataset updates of Instruct-NeRF2NeRF (Haque et al. 2023), the head is
    fitted to such pictures of fixed views, each made again after some visits. With e = image -
    target at pixels that may change, else 0, the loss is the mean over these pixels of |e| +
    edge_weight |grad e|, where grad takes the differences of neighbours (Mathieu et al. 2016);
    perceptual_weight adds LPIPS (Zhang et al. 2018). No gradient flows through the prior.
    """

    unused = (
        *("guidance_scale", "timestep_range", "final_max_timestep", "weighting", "blend"),
        "source_prompt",
    )

    def __init__(self, *args):
        super().__init__(*args)
        self.num_views = self.options.denoised.num_views
        self.targets: dict[int, Tensor] = {}
        self.visits = Counter()
        self.noise: Tensor | None = None
        self.perceptual = None
        if self.options.denoised.perceptual_weight:
            self.perceptual = load_lpips(self.guidance.alphas_cumprod.device)

    def loss(self, view: ObjectiveView) -> Tensor:
        """See `Objective`."""
        options, target = self.options.denoised, self._target(view)
        size = target.shape[-2:]
        image = F.interpolate(
            view.image, size=size, mode="bilinear", align_corners=False, antialias=True
        )
        inside = (F.interpolate(view.inside.to(image), size=size, mode="area") > 0.5).to(image)
        error, area = (image - target) * inside, inside.sum().clamp(min=1) * image.shape[1]
        loss = error.abs().sum() / area
        if options.edge_weight:
            edges = [error.diff(dim=dim).abs().sum() / area for dim in (-2, -1)]
            loss = loss + options.edge_weight * sum(edges)
        if self.perceptual is not None:
            pasted = torch.where(inside > 0, target, image.detach())
            distance = self.perceptual(image, pasted).mean() / inside.mean().clamp(min=1e-4)
            loss = loss + options.perceptual_weight * distance
        return loss

    def _target(self, view: ObjectiveView) -> Tensor:  # [1, 3, S, S]
        if view.index is None:
            return self._paint(view)
        target, visit = self.targets.get(view.index), self.visits[view.index]
        self.visits[view.index] += 1
        if target is None or visit % self.options.denoised.refresh_interval == 0:
            target = self._paint(view)
            # A broken target spoils this step only.
            if torch.isfinite(target).all():
                self.targets[view.index] = target
        return target

    @torch.no_grad()
    def _paint(self, view: ObjectiveView) -> Tensor:  # [1, 3, S, S]
        options, alphas = self.options.denoised, self.guidance.alphas_cumprod
        first, last = options.noise_levels
        level = first + (last - first) * view.progress
        timesteps = denoising_timesteps(level, options.num_denoising_steps, len(alphas))
        latents = self.guidance.encode_image(view.image)
        if self.noise is None:
            # The same for all targets, so that views and refreshed targets agree.
            self.noise = self._draw_noise(latents)
        clean = denoise(
            lambda noisy, timestep: self._predict(
                noisy, timestep, view.control_image, options.guidance_scale
            ),
            add_noise(latents, self.noise, alphas, timesteps[:1].to(latents.device)),
            alphas,
            timesteps,
        )
        return self.guidance.decode_latents(clean)


def sample_timestep(
    batch_size: int,
    num_timesteps: int,
    timestep_range: tuple[float, float],
    *,
    generator: torch.Generator,
) -> Tensor:  # [B] int64
    """Draw timesteps uniformly from a range given as fractions of the training steps."""
    smallest = round(timestep_range[0] * num_timesteps)
    largest = max(round(timestep_range[1] * num_timesteps), smallest + 1)
    return torch.randint(smallest, min(largest, num_timesteps), (batch_size,), generator=generator)


def annealed_timestep_range(options: ObjectiveOptions, progress: float) -> tuple[float, float]:
    """Return the range at `progress` (0..1): the maximum falls linearly to its final value."""
    smallest, largest = options.timestep_range
    return smallest, largest + (options.final_max_timestep - largest) * progress


def timestep_weight(
    alphas_cumprod: Tensor,  # [T]
    timestep: Tensor,  # [B]
    weighting: Weighting,
) -> Tensor:  # [B, 1, 1, 1]
    """Return w(t) of the gradient."""
    alpha = alphas_cumprod[timestep].view(-1, 1, 1, 1)
    return 1 - alpha if weighting == "variance" else torch.ones_like(alpha)


def add_noise(
    latents: Tensor,  # [B, C, h, w]
    noise: Tensor,  # [B, C, h, w]
    alphas_cumprod: Tensor,  # [T]
    timestep: Tensor,  # [B]
) -> Tensor:  # [B, C, h, w]
    """Return sqrt(a) latents + sqrt(1 - a) noise, the forward diffusion at `timestep`."""
    alpha = alphas_cumprod[timestep].view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def loss_of_gradient(
    latents: Tensor,  # [B, C, h, w]
    gradient: Tensor,  # [B, C, h, w]
) -> Tensor:  # scalar
    """Return half the mean squared distance to a detached target at `latents - gradient`.

    Its gradient with respect to the latents is `gradient` over the number of latents.
    """
    return 0.5 * F.mse_loss(latents, (latents - gradient).detach())


def denoising_timesteps(
    level: float, num_steps: int, num_timesteps: int
) -> Tensor:  # [num_steps] int64
    """Return falling timesteps from `level` (fraction of the training timesteps) to almost 0.

    They end as far from "no noise" as from each other ("trailing" in diffusers; Lin et al. 2023).
    """
    edges = torch.linspace(level * num_timesteps, 0, num_steps + 1, dtype=torch.float64)
    return (edges[:-1].round().long() - 1).clamp(min=0)


def denoise(
    predict: Callable[[Tensor, Tensor], Tensor],
    noisy_latents: Tensor,  # [B, C, h, w]
    alphas_cumprod: Tensor,  # [T]
    timesteps: Tensor,  # [S] int64, falling
) -> Tensor:  # [B, C, h, w]
    """Denoise deterministically (DDIM, Song et al. 2021, eq. 12 with sigma 0).

    Args:
        predict: From noisy latents and timestep [B] to the noise in them.
        noisy_latents: Latents with the noise of the first timestep.
    """
    timesteps = timesteps.to(noisy_latents.device)
    alphas = torch.cat([alphas_cumprod[timesteps], alphas_cumprod.new_ones(1)])
    latents = noisy_latents
    for timestep, (alpha, next_alpha) in zip(timesteps, pairwise(alphas), strict=True):
        noise = predict(latents, timestep.expand(len(latents)))
        clean = (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        latents = next_alpha.sqrt() * clean + (1 - next_alpha).sqrt() * noise
    return latents


def load_lpips(device: str | torch.device) -> nn.Module:
    """Return the frozen perceptual distance of images [B, 3, H, W] in [-1, 1] (torchmetrics).

    Raises:
        UserError: If the torch hub cache has no weights of AlexNet.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    url = AlexNet_Weights.DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        raise UserError(
            f"edit.distillation.denoised.perceptual_weight needs {path}; get it from {url}, or use"
            " perceptual_weight=0"
        )
    return LearnedPerceptualImagePatchSimilarity("alex").net.to(device).requires_grad_(False)
