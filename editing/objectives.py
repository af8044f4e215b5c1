"""Objectives: how a frozen diffusion prior turns a view of the edited head into a loss.

`SDS`, `CSD` and `DDS` give the latents a gradient from noise predictions; `Denoised` compares the
view with a picture that the prior painted over it. All losses are means, so a weight means the
same for priors of any size.
"""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from editing.guidance.base import Guidance, PromptEmbeds, encode_sides
from editing.options import ObjectiveName, ObjectiveOptions

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ObjectiveView:
    """A view of the edited head, and of its source.

    Args:
        image: Rendered image with its gradient, [1, 3, H, W] in [-1, 1].
        normals: Rendered normals as colours with their gradient (see `picture_normals`), like
            `image`; None if the objective does not ask for them.
        control_image: Colour-coded label map that conditions the prior, [1, 3, H, W] in [0, 1];
            None for text only.
        source_image: The source at the same view, [1, 3, H, W] in [-1, 1].
        source_control_image: The source's label map like `control_image`.
        inside: Pixels that may change, [1, 1, H, W] bool.
        index: Which of the fixed views this is, 0 for the painted one; None for a random view.
        progress: Completed fraction of the edit, 0..1.
        label_map: Labels of the view, [1, H, W] int64, which say where prompts of labels hold.
        turn: Yaw as a share of half a turn, from 0 (front) to 1 (behind).
    """

    image: Tensor
    normals: Tensor | None
    control_image: Tensor | None
    source_image: Tensor
    source_control_image: Tensor | None
    inside: Tensor
    index: int | None
    progress: float
    label_map: Tensor | None = None
    turn: float = 0.0


class Objective(ABC):
    """Turns views into losses.

    Args:
        generator: CPU random generator for noise, timesteps and shares.

    Attributes:
        with_normals: Whether views must have normals.
        num_views: How many fixed views to visit in turn; 0 for a random view at each step.
        unused: Options that this objective does not use.
        kept: Attributes on which later losses depend.
    """

    with_normals = False
    num_views = 0
    unused: ClassVar[tuple[str, ...]]
    kept: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        options: ObjectiveOptions,
        guidance: Guidance,
        prompt_embeds: PromptEmbeds,
        generator: torch.Generator,
    ):
        self.options, self.guidance, self.generator = options, guidance, generator
        self.prompt_embeds = prompt_embeds

    @abstractmethod
    def loss(self, view: ObjectiveView) -> Tensor:  # scalar
        """Return the loss of a view; its gradient reaches the image, the normals or both."""

    def predict(
        self,
        noisy_latents: Tensor,  # [1, C, h, w]
        timestep: Tensor,  # [1]
        view: ObjectiveView,
        guidance_scale: float,
        prompt_embeds: PromptEmbeds | None = None,
        *,
        only_added: bool = False,
    ) -> Tensor:  # [1, C, h, w]
        """Return the prior's noise estimate; the prompt is the edit's unless another is given."""
        embeds = prompt_embeds or self.prompt_embeds
        if sides := embeds.by_side:
            embeds = sides[round(view.turn * (len(sides) - 1))]
        return self.guidance.predict_noise(
            noisy_latents,
            timestep,
            replace(embeds, label_map=view.label_map),
            view.control_image,
            only_added=only_added,
            guidance_scale=guidance_scale,
            controlnet_conditioning_scale=self.options.controlnet_conditioning_scale,
        )

    def draw_noise(self, latents: Tensor) -> Tensor:
        """Draw standard normal noise like the latents."""
        return torch.randn(latents.shape, generator=self.generator).to(latents)


def make_objective(
    name: ObjectiveName,
    options: ObjectiveOptions,
    guidance: Guidance,
    prompt_embeds: PromptEmbeds,
    generator: torch.Generator,
) -> Objective:
    """Return the objective of that name, and warn of options that it does not use."""
    kind = {"sds": SDS, "csd": CSD, "dds": DDS, "denoised": Denoised}[name]
    default = ObjectiveOptions()
    changed = [name for name in kind.unused if getattr(options, name) != getattr(default, name)]
    if changed:
        listed = ", ".join(f"edit.distillation.{option}" for option in changed)
        _logger.warning("no effect with edit.objective=%s: %s", name, listed)
    return kind(options, guidance, prompt_embeds, generator)


class SDS(Objective):
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
        alphas, latents = self.guidance.alphas_cumprod, self.encode(view)
        timestep = sample_timestep(self.options, view.progress, len(alphas), self.generator)
        timestep = timestep.to(latents.device)
        noise = self.draw_noise(latents)
        noisy = add_noise(latents.detach(), noise, alphas, timestep)
        weight = 1 - alphas[timestep] if self.options.weighting == "variance" else 1.0
        return loss_of_gradient(latents, weight * self.direction(view, noisy, noise, timestep))

    def encode(self, view: ObjectiveView) -> Tensor:  # [1, C, h, w]
        """Return the latents to move."""
        share = {"image": 1.0, "normals": 0.0}.get(self.options.blend)
        if share is None:
            share = torch.rand((), generator=self.generator).item()
        # Adding noise is affine and both get the same noise and timestep, so mixing clean latents
        # equals share z_t(image) + (1 - share) z_t(normals). The gradient reaches both in shares.
        parts = (share, view.image), (1 - share, view.normals)
        shares, images = zip(*(part for part in parts if part[0]), strict=True)
        latents = self.guidance.encode_image(torch.cat(images)).split(1)
        return sum(part * encoded for part, encoded in zip(shares, latents, strict=True))

    def direction(
        self, view: ObjectiveView, noisy: Tensor, noise: Tensor, timestep: Tensor
    ) -> Tensor:  # [1, C, h, w]
        """Return the gradient of the latents without its weight."""
        scale = self.options.guidance_scale
        return self.predict(noisy, timestep, view, scale) - noise


class CSD(SDS):
    """Classifier score distillation (Yu et al. 2023) of image and normals.

    The SDS gradient is (eps_neg - noise) + guidance_scale (eps_prompt - eps_neg), where eps_neg is
    the prediction for the negative prompt. Only the second term is kept: what the prompt adds,
    without the pull to the prior's average picture.
    """

    def direction(
        self, view: ObjectiveView, noisy: Tensor, noise: Tensor, timestep: Tensor
    ) -> Tensor:  # [1, C, h, w]
        scale = self.options.guidance_scale
        return self.predict(noisy, timestep, view, scale, only_added=True)


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
        words, prompt = self.options.view_words, self.options.source_prompt
        self.source_embeds = encode_sides(self.guidance, words, prompt)

    def encode(self, view: ObjectiveView) -> Tensor:  # [1, C, h, w]
        return self.guidance.encode_image(view.image)

    @torch.no_grad()
    def direction(
        self, view: ObjectiveView, noisy: Tensor, noise: Tensor, timestep: Tensor
    ) -> Tensor:  # [1, C, h, w]
        scale, alphas = self.options.guidance_scale, self.guidance.alphas_cumprod
        source = self.guidance.encode_image(view.source_image)
        noisy_source = add_noise(source, noise, alphas, timestep)
        before = replace(view, control_image=view.source_control_image)
        reference = self.predict(noisy_source, timestep, before, scale, self.source_embeds)
        return self.predict(noisy, timestep, view, scale) - reference


class Denoised(Objective):
    """Denoised pictures as targets.

    As in SDEdit (Meng et al. 2022), the render is noised to some level and denoised under prompt
    and mask, by default with the latents outside the region kept (blended latent diffusion,
    Avrahami et al. 2023). As in the dataset updates of Instruct-NeRF2NeRF (Haque et al. 2023), the
    head is fitted to such pictures of fixed views, each made again after some visits. With e =
    image - target at pixels that may change, else 0, the loss is the mean over these pixels of
    |e| + edge_weight |grad e|, where grad takes the differences of neighbours (Mathieu et al.
    2016). No gradient flows through the prior.
    """

    unused = (
        *("guidance_scale", "timestep_range", "final_max_timestep", "weighting", "blend"),
        "source_prompt",
    )
    kept = ("targets", "visits", "noise")

    def __init__(self, *args):
        super().__init__(*args)
        self.num_views = self.options.denoised.num_views
        self.targets: dict[int, Tensor] = {}
        self.visits = Counter()
        self.noise: Tensor | None = None

    def loss(self, view: ObjectiveView) -> Tensor:
        options, target = self.options.denoised, self._target(view)
        size = target.shape[-2:]
        image = F.interpolate(
            view.image, size=size, mode="bilinear", align_corners=False, antialias=True
        )
        inside = (F.interpolate(view.inside.to(image), size=size, mode="area") > 0.5).to(image)
        error, area = (
            (image - target.to(image)) * inside,
            inside.sum().clamp(min=1) * image.shape[1],
        )
        loss = error.abs().sum() / area
        if options.edge_weight:
            edges = [error.diff(dim=dim).abs().sum() / area for dim in (-2, -1)]
            loss = loss + options.edge_weight * sum(edges)
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
        options, guidance = self.options.denoised, self.guidance
        latents = guidance.encode_image(view.image)
        if self.noise is None:
            # The same for all targets, so that views and refreshed targets agree.
            self.noise = self.draw_noise(latents)
        is_free = F.adaptive_max_pool2d(view.inside.to(latents), latents.shape[-2:])
        # Decoding mixes neighbours: with kept ones around them, small parts keep their colour.
        is_free = F.max_pool2d(is_free, 3, stride=1, padding=1) > 0
        first, last = options.noise_levels
        clean = denoise(
            lambda noisy, timestep: self.predict(noisy, timestep, view, options.guidance_scale),
            latents,
            self.noise.to(latents),
            guidance.alphas_cumprod,
            level=first + (last - first) * view.progress,
            num_steps=options.num_denoising_steps,
            kept=~is_free if options.keep_outside else None,
        )
        return guidance.decode_latents(clean)


def sample_timestep(
    options: ObjectiveOptions, progress: float, num_timesteps: int, generator: torch.Generator
) -> Tensor:  # [1] int64
    """Draw uniformly from the range, whose maximum falls linearly with the progress (0..1)."""
    low, high = options.timestep_range
    high += (options.final_max_timestep - high) * progress
    smallest = round(low * num_timesteps)
    largest = max(round(high * num_timesteps), smallest + 1)
    return torch.randint(smallest, min(largest, num_timesteps), (1,), generator=generator)


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


def denoise(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,  # [B, C, h, w]
    noise: Tensor,  # [B, C, h, w]
    alphas_cumprod: Tensor,  # [T]
    *,
    level: float,
    num_steps: int,
    kept: Tensor | None = None,  # [B, 1, h, w] bool
) -> Tensor:  # [B, C, h, w]
    """Add noise and take it away again (SDEdit) in DDIM steps (Song et al. 2021, eq. 12, sigma 0).

    The timesteps are as far from "no noise" as from each other ("trailing" in diffusers).

    Args:
        predict: From noisy latents and timestep [B] to the noise in them.
        level: Noise to add, as a fraction of the training timesteps.
        kept: Latents that stay as they are; the others fit to them.
    """
    edges = torch.linspace(level * len(alphas_cumprod), 0, num_steps + 1, dtype=torch.float64)
    timesteps = (edges[:-1].round().long() - 1).clamp(min=0).to(latents.device)
    alphas = torch.cat([alphas_cumprod[timesteps], alphas_cumprod.new_ones(1)])
    noisy = alphas[0].sqrt() * latents + (1 - alphas[0]).sqrt() * noise
    for timestep, (alpha, next_alpha) in zip(timesteps, pairwise(alphas), strict=True):
        noise_pred = predict(noisy, timestep.expand(len(noisy)))
        clean = (noisy - (1 - alpha).sqrt() * noise_pred) / alpha.sqrt()
        noisy = next_alpha.sqrt() * clean + (1 - next_alpha).sqrt() * noise_pred
        if kept is not None:
            given = next_alpha.sqrt() * latents + (1 - next_alpha).sqrt() * noise
            noisy = torch.where(kept, given, noisy)
    return noisy
