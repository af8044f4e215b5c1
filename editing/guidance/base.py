"""Guidance protocol: from noisy latents, timestep and conditions to guided noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class PromptEmbeds:
    """Encoded prompts of an edit, and where those of labels hold.

    Args:
        prompt: Text encoder output of the global prompt, [1, T, D].
        negative_prompt: The same of the negative (often empty) prompt, [1, T, D].
        label_prompts: Prompts that replace the global one, [1, T, D], by the class ids where they
            hold; no id is in two.
        label_map: Labels of the view whose noise is predicted, [1, H, W] or [B, H, W]. Label
            prompts need it; set it for each view with `dataclasses.replace`.
        by_side: The same with the words for each direction of view, from the front to behind; empty
            if they do not differ. See `encode_sides`.
    """

    prompt: Tensor
    negative_prompt: Tensor
    label_prompts: Mapping[tuple[int, ...], Tensor] = field(default_factory=dict)
    label_map: Tensor | None = None
    by_side: tuple["PromptEmbeds", ...] = ()


class Guidance(Protocol):
    """A frozen latent diffusion model; it keeps no state of the edit.

    Attributes:
        palette: Colours of labels in its condition, as in `GuidanceOptions`.
    """

    palette: str | None

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the model was trained on."""

    @property
    def alphas_cumprod(self) -> Tensor:  # [T]
        """Cumulative signal power of each training timestep, decreasing from 1 to 0."""

    def encode_prompt(
        self,
        prompt: str,
        negative_prompt: str = "",
        label_prompts: Mapping[int, str] | None = None,
    ) -> PromptEmbeds:
        """Encode texts once for the whole edit.

        Args:
            label_prompts: Prompts of labels by class id.
        """

    def encode_image(
        self,
        image: Tensor,  # [B, 3, H, W] in [-1, 1], any size
    ) -> Tensor:  # [B, C, h, w]
        """Resize to `image_size` and return scaled latents, differentiably."""

    def decode_latents(
        self,
        latents: Tensor,  # [B, C, h, w]
    ) -> Tensor:  # [B, 3, image_size, image_size] in [-1, 1]
        """Return the images of scaled latents; no gradient flows through it."""

    def predict_noise(
        self,
        noisy_latents: Tensor,  # [B, C, h, w]
        timestep: Tensor,  # [B] int64
        prompt_embeds: PromptEmbeds,
        control_image: Tensor | None,  # [B, 3, H, W] in [0, 1], or None for text only
        *,
        guidance_scale: float,
        controlnet_conditioning_scale: float,
        only_added: bool = False,
    ) -> Tensor:  # [B, C, h, w]
        """Return the guided noise estimate (epsilon); no gradient flows through it.

        With label prompts, the estimate of prompt p has the share m_p of label p at each latent,
        and the global prompt the rest: e = e_neg + s (sum_p m_p e_p - e_neg), where sum_p m_p = 1.

        Args:
            only_added: Return the second term alone, which is what the prompts add.
        """


def encode_sides(
    guidance: Guidance,
    view_words: Sequence[str],
    prompt: str,
    negative_prompt: str = "",
    label_prompts: Mapping[int, str] | None = None,
) -> PromptEmbeds:
    """Encode prompts once for each direction of view, whose words end them (DreamFusion, 3.2).

    Args:
        view_words: Words for views from the front to behind, evenly spaced; may be empty.
    """
    by_side = []
    for word in view_words or ("",):
        end = f", {word}" if word else ""
        texts = {class_id: text + end for class_id, text in (label_prompts or {}).items()}
        whole = (prompt + end).removeprefix(", ")
        by_side.append(guidance.encode_prompt(whole, negative_prompt, texts))
    return replace(by_side[0], by_side=tuple(by_side)) if view_words else by_side[0]
