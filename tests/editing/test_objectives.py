"""Objectives that give latents a gradient: it is their formula."""

import dataclasses
import math

import pytest
import torch

from editing.guidance.base import encode_sides
from editing.objectives import add_noise, loss_of_gradient, make_objective, sample_timestep
from editing.options import DenoisedOptions, ObjectiveOptions
from tests.editing.objective_views import OPTIONS, TellingGuidance, make, make_view, picture

SCALES = {"guidance_scale": 7.5, "controlnet_conditioning_scale": 1.0}


@pytest.fixture
def guidance():
    return TellingGuidance()


def draw(guidance, latents, seed=0, with_share=False):
    """Return what an objective of the same seed draws: share, timestep, noise."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand((), generator=generator) if with_share else None
    timestep = sample_timestep(OPTIONS, 0.0, len(guidance.alphas_cumprod), generator)
    return share, timestep, torch.randn(latents.shape, generator=generator)


def assert_gradient_is(loss, guidance, image, expected):
    """The gradient with respect to the latents of an image is `expected` over their number."""
    (gradient,) = torch.autograd.grad(loss, image, retain_graph=True)
    latents = guidance.encode_image(image)
    cotangent = (expected / latents.numel()).detach()
    (through_encoder,) = torch.autograd.grad(latents, image, grad_outputs=cotangent)
    torch.testing.assert_close(gradient, through_encoder)
    assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize("weighting", ["variance", "uniform"])
def test_sds_gradient_is_the_weighted_noise_error_in_shares_of_image_and_normals(
    guidance, weighting
):
    view, alphas = make_view(), guidance.alphas_cumprod
    objective = make("sds", guidance, dataclasses.replace(OPTIONS, weighting=weighting))
    assert objective.with_normals and objective.num_views == 0
    loss = objective.loss(view)
    image_latents, normal_latents = map(guidance.encode_image, (view.image, view.normals))
    share, timestep, noise = draw(guidance, image_latents, with_share=True)
    latents = share * image_latents + (1 - share) * normal_latents
    noisy = add_noise(latents, noise, alphas, timestep)
    embeds = guidance.encode_prompt("a cat")
    predicted = guidance.predict_noise(noisy, timestep, embeds, view.control_image, **SCALES)
    weight = 1 - alphas[timestep] if weighting == "variance" else 1
    gradient = weight * (predicted - noise)
    assert_gradient_is(loss, guidance, view.image, share * gradient)
    assert_gradient_is(loss, guidance, view.normals, (1 - share) * gradient)


@pytest.mark.parametrize(("name", "calls"), [("sds", [2]), ("csd", [2]), ("dds", [1, 1])])
def test_pictures_are_encoded_and_the_prior_asked_no_more_than_needed(
    guidance, monkeypatch, name, calls
):
    encode, batch_sizes = guidance.encode_image, []

    def note(image):
        batch_sizes.append(len(image))
        return encode(image)

    monkeypatch.setattr(guidance, "encode_image", note)
    make(name, guidance).loss(make_view())
    assert batch_sizes == calls and len(guidance.timesteps) == (2 if name == "dds" else 1)


@pytest.mark.parametrize("name", ["sds", "csd", "dds", "denoised"])
def test_words_of_the_view_end_the_prompts_by_its_yaw(guidance, monkeypatch, name):
    encode, predict, asked, words = guidance.encode_prompt, guidance.predict_noise, [], {}

    def note_prompt(prompt, negative_prompt="", label_prompts=None):
        embeds = encode(prompt, negative_prompt)
        words[id(embeds.prompt)] = prompt, label_prompts
        return embeds

    def note_asked(noisy_latents, timestep, prompt_embeds, *args, **scales):
        asked.append(words[id(prompt_embeds.prompt)])
        return predict(noisy_latents, timestep, prompt_embeds, *args, **scales)

    monkeypatch.setattr(guidance, "encode_prompt", note_prompt)
    monkeypatch.setattr(guidance, "predict_noise", note_asked)
    sides = ("front view", "side view", "back view")
    options = dataclasses.replace(OPTIONS, view_words=sides)
    embeds = encode_sides(guidance, sides, "a cat", "", {2: "ears"})
    objective = make_objective(name, options, guidance, embeds, torch.Generator())
    assert len(words) == (6 if name == "dds" else 3)
    for degrees, side in ((0, 0), (40, 0), (50, 1), (130, 1), (140, 2), (180, 2)):
        asked.clear()
        objective.loss(make_view(turn=degrees / 180))
        wanted = {f"a cat, {sides[side]}"} | ({sides[side]} if name == "dds" else set())
        assert {prompt for prompt, _ in asked} == wanted
        assert (f"a cat, {sides[side]}", {2: f"ears, {sides[side]}"}) in asked


@pytest.mark.parametrize("blend", ["image", "normals"])
def test_sds_of_one_encoding_leaves_the_other_alone(guidance, blend):
    view = make_view()
    objective = make("sds", guidance, dataclasses.replace(OPTIONS, blend=blend))
    assert objective.with_normals == (blend == "normals")
    loss = objective.loss(view)
    seen, other = (view.image, view.normals)[:: 1 if blend == "image" else -1]
    gradient, none = torch.autograd.grad(loss, (seen, other), allow_unused=True)
    assert gradient.abs().sum() > 0 and none is None


def test_csd_gradient_is_what_the_prompt_adds(guidance):
    view, options = make_view(), dataclasses.replace(OPTIONS, blend="image")
    loss = make("csd", guidance, options).loss(view)
    _, timestep, _ = draw(guidance, guidance.encode_image(view.image))
    # "a cat" has 5 letters, the negative prompt none.
    added = 7.5 * 5 * guidance.noise_pred
    gradient = (1 - guidance.alphas_cumprod[timestep]) * added
    assert_gradient_is(loss, guidance, view.image, gradient)
    assert make("csd", guidance, options, prompt="").loss(view) < 1e-10


def test_dds_gradient_is_the_difference_to_the_source_under_the_same_noise(guidance):
    view, alphas = make_view(source_image=picture(3).requires_grad_(True)), guidance.alphas_cumprod
    objective = make("dds", guidance, dataclasses.replace(OPTIONS, source_prompt="cat"))
    assert not objective.with_normals
    loss = objective.loss(view)
    latents, source = map(guidance.encode_image, (view.image, view.source_image))
    _, timestep, noise = draw(guidance, latents)
    edited, reference = (
        guidance.predict_noise(
            add_noise(encoded, noise, alphas, timestep),
            timestep,
            guidance.encode_prompt(prompt),
            control,
            **SCALES,
        )
        for encoded, prompt, control in (
            (latents, "a cat", view.control_image),
            (source, "cat", view.source_control_image),
        )
    )
    assert_gradient_is(loss, guidance, view.image, (1 - alphas[timestep]) * (edited - reference))
    assert torch.autograd.grad(loss, view.source_image, allow_unused=True) == (None,)


def test_dds_leaves_a_head_alone_that_is_as_the_prompt_says(guidance):
    view = make_view()
    view = dataclasses.replace(
        view, source_image=view.image.detach(), source_control_image=view.control_image
    )
    options = dataclasses.replace(OPTIONS, source_prompt="a cat")
    assert make("dds", guidance, options).loss(view) < 1e-10
    assert make("dds", guidance, OPTIONS).loss(view) > 1e-4


@pytest.mark.parametrize("side", [8, 64])
def test_a_weight_means_the_same_for_priors_of_any_size(side):
    shift = torch.zeros((), requires_grad=True)
    latents = torch.zeros(1, 4, side, side) + shift
    loss = loss_of_gradient(latents, torch.full_like(latents, 0.5))
    loss.backward()
    assert loss.item() == pytest.approx(0.125)
    assert shift.grad.item() == pytest.approx(0.5)


def test_share_is_drawn_from_zero_to_one_at_each_step(guidance):
    view, objective, shares = make_view(), make("sds", guidance), []
    for _ in range(40):
        gradients = torch.autograd.grad(objective.loss(view), (view.image, view.normals))
        image, normals = (gradient.norm().item() for gradient in gradients)
        shares.append(image / (image + normals))
    assert min(shares) < 0.2 and max(shares) > 0.8


def test_timesteps_reach_the_ends_of_a_range_whose_largest_falls_linearly():
    options = ObjectiveOptions(timestep_range=(0.02, 0.9), final_max_timestep=0.5)
    for progress, largest in ((0.0, 899), (0.5, 699), (1.0, 499)):
        generator = torch.Generator().manual_seed(0)
        draws = [sample_timestep(options, progress, 1000, generator).item() for _ in range(8000)]
        assert min(draws) == 20 and max(draws) == largest


@pytest.mark.parametrize("name", ["sds", "csd", "dds", "denoised"])
def test_a_prior_that_breaks_is_not_hidden_and_leaves_nothing_behind(guidance, name):
    view, noise_pred = make_view(index=0), guidance.noise_pred
    objective = make(name, guidance, dataclasses.replace(OPTIONS, blend="image"))
    guidance.noise_pred = noise_pred * math.nan
    assert not torch.isfinite(objective.loss(view))
    guidance.noise_pred = noise_pred
    assert torch.isfinite(objective.loss(view))


@pytest.mark.parametrize("name", ["sds", "csd", "dds", "denoised"])
def test_an_option_without_effect_is_named(guidance, caplog, name):
    options = ObjectiveOptions(blend="image", source_prompt="a cat", denoised=DenoisedOptions(9.0))
    make(name, guidance, options)
    for option, users in {
        "blend": ("sds", "csd"),
        "source_prompt": ("dds",),
        "denoised": ("denoised",),
    }.items():
        assert (f"edit.distillation.{option}" in caplog.text) == (name not in users)
    caplog.clear()
    make(name, guidance, ObjectiveOptions())
    assert not caplog.text
