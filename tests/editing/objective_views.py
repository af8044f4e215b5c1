"""A prior that tells what it was asked, and views and objectives to ask it with."""

import dataclasses

import torch

from editing.guidance.base import PromptEmbeds
from editing.objectives import ObjectiveView, make_objective
from editing.options import ObjectiveOptions
from tests.editing.conftest import FakeGuidance

OPTIONS = ObjectiveOptions(final_max_timestep=0.98)


class TellingGuidance(FakeGuidance):
    """A prior whose answer depends on all that it is asked, and that keeps the timesteps."""

    def __init__(self):
        super().__init__()
        self.timesteps: list[int] = []

    def encode_prompt(self, prompt, negative_prompt="", label_prompts=None) -> PromptEmbeds:
        texts = (torch.full((1, 2, 4), float(len(text))) for text in (prompt, negative_prompt))
        return PromptEmbeds(*texts)

    def predict_noise(
        self,
        noisy_latents,
        timestep,
        prompt_embeds,
        control_image,
        *,
        guidance_scale,
        controlnet_conditioning_scale,
        only_added=False,
    ):
        super().predict_noise(noisy_latents, timestep, prompt_embeds, control_image)
        self.timesteps.append(timestep.item())
        with_prompt, without = (
            (embeds.mean() + 1) * self.noise_pred
            for embeds in (prompt_embeds.prompt, prompt_embeds.negative_prompt)
        )
        added = guidance_scale * (with_prompt - without)
        if only_added:
            return added
        asked = 0.3 * noisy_latents + 0.01 * timestep.view(-1, 1, 1, 1)
        if control_image is not None:
            asked = asked + controlnet_conditioning_scale * control_image.mean()
        return asked + without + added


def picture(seed, size=16):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def make_view(**values):
    view = ObjectiveView(
        image=picture(0).requires_grad_(True),
        normals=picture(1).requires_grad_(True),
        control_image=picture(2).abs(),
        source_image=picture(3),
        source_control_image=picture(4).abs(),
        inside=torch.ones(1, 1, 16, 16, dtype=torch.bool),
        index=None,
        progress=0.0,
    )
    return dataclasses.replace(view, **values)


def make(name, guidance, options=OPTIONS, prompt="a cat", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return make_objective(name, options, guidance, guidance.encode_prompt(prompt), generator)
