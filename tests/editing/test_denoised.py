"""Denoised targets are diffusers' own pictures, and the loss is the difference to them."""

import dataclasses

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionControlNetImg2ImgPipeline

from editing.guidance.controlnet import ControlNetGuidance
from editing.objectives import add_noise, denoise
from editing.options import DenoisedOptions
from mate3d.checkpoints.assets import named_asset
from mate3d.errors import UserError
from tests.editing.objective_views import OPTIONS, TellingGuidance, make, make_view, picture


@pytest.fixture
def guidance():
    return TellingGuidance()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_denoising_equals_image_to_image_of_diffusers(prediction_type):
    pipeline = StableDiffusionControlNetImg2ImgPipeline.from_pretrained(
        named_asset("demo_prior"),
        **dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder")),
        requires_safety_checker=False,
    )
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        prediction_type=prediction_type,
    )
    pipeline.set_progress_bar_config(disable=True)
    guidance = ControlNetGuidance(pipeline)
    image, control = picture(0, 64), picture(1, 64).abs()
    latents = guidance.encode_image(image)
    scales = {"guidance_scale": 5.0, "controlnet_conditioning_scale": 0.8}
    options = {"num_inference_steps": 10, "strength": 0.8, "output_type": "pt", **scales}
    generator = torch.Generator().manual_seed(3)
    theirs = pipeline(
        "a black cat", latents, control, height=64, width=64, generator=generator, **options
    ).images
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    embeds = guidance.encode_prompt("a black cat")
    clean = denoise(
        lambda noisy, timestep: guidance.predict_noise(noisy, timestep, embeds, control, **scales),
        latents,
        noise,
        guidance.alphas_cumprod,
        level=0.8,
        num_steps=8,
    )
    ours = (guidance.decode_latents(clean) + 1) / 2
    assert theirs.std() > 0.05
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


def test_denoising_finds_the_picture_that_a_perfect_prior_has_in_mind():
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64, generator=generator)
    alphas = torch.linspace(0.999, 0.01, 100, dtype=torch.float64)

    def predict(noisy, timestep):
        alpha = alphas[timestep].view(-1, 1, 1, 1)
        return (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()

    found = denoise(predict, torch.zeros_like(clean), noise, alphas, level=1.0, num_steps=7)
    torch.testing.assert_close(found, clean)


def test_kept_latents_stay_and_the_others_see_them_at_the_noise_of_each_step(guidance):
    latents, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    alphas, kept, seen = guidance.alphas_cumprod, torch.zeros(1, 1, 8, 8, dtype=torch.bool), []
    kept[..., :4] = True

    def predict(noisy, timestep):
        expected = add_noise(latents, noise, alphas, timestep)
        torch.testing.assert_close(noisy[..., :4], expected[..., :4])
        seen.append(timestep.item())
        return guidance.noise_pred

    found = denoise(predict, latents, noise, alphas, level=0.9, num_steps=4, kept=kept)
    assert len(seen) == 4
    assert torch.equal(found[..., :4], latents[..., :4])
    assert (found - latents)[..., 4:].abs().min() > 1e-4


def with_denoised(**values):
    return dataclasses.replace(OPTIONS, denoised=DenoisedOptions(**values))


def test_denoised_gradient_points_to_the_target_inside_only(guidance):
    inside = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    inside[..., 4:12, 4:12] = True
    view = make_view(inside=inside, index=1)
    objective = make("denoised", guidance, with_denoised(edge_weight=0.0))
    assert objective.num_views == 12 and not objective.with_normals
    loss = objective.loss(view)
    target = objective.targets[1]
    assert not target.requires_grad
    error = (view.image - target) * inside
    assert loss.item() == pytest.approx((error.abs().sum() / (3 * 64)).item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, view.image)
    torch.testing.assert_close(gradient, error.sign() / (3 * 64))
    view = dataclasses.replace(view, inside=torch.zeros_like(inside))
    (gradient,) = torch.autograd.grad(objective.loss(view), view.image)
    assert not gradient.any()


def test_edge_weight_adds_the_difference_of_neighbours_inside(guidance):
    view = make_view(index=0)
    losses = {
        weight: make("denoised", guidance, with_denoised(edge_weight=weight)).loss(view).item()
        for weight in (0.0, 0.5)
    }
    objective = make("denoised", guidance, with_denoised())
    objective.loss(view)
    error = view.image - objective.targets[0]
    edges = sum(error.diff(dim=dim).abs().sum() for dim in (-2, -1)) / error.numel()
    assert losses[0.5] == pytest.approx(losses[0.0] + 0.5 * edges.item(), rel=1e-5)


def test_targets_have_a_view_each_the_same_noise_and_are_made_again_after_some_visits(guidance):
    options = with_denoised(refresh_interval=3, num_denoising_steps=4)
    objective, calls = make("denoised", guidance, options), []
    for _ in range(4):
        for index in (0, 1):
            guidance.controls.clear()
            objective.loss(make_view(index=index))
            calls.append(len(guidance.controls))
    assert calls == [4, 4, 0, 0, 0, 0, 4, 4]
    # Equal views get equal targets.
    torch.testing.assert_close(objective.targets[0], objective.targets[1], rtol=0, atol=0)
    guidance.controls.clear()
    objective.loss(make_view(index=None))
    assert len(guidance.controls) == 4 and len(objective.targets) == 2


def test_targets_show_the_rest_of_the_head_unless_they_need_not(guidance):
    inside = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    inside[..., 8:] = True
    view = make_view(inside=inside, index=0)
    plain = guidance.decode_latents(guidance.encode_image(view.image))
    for keep_outside in (True, False):
        objective = make("denoised", guidance, with_denoised(keep_outside=keep_outside))
        objective.loss(view)
        is_kept = torch.allclose(objective.targets[0][..., :6], plain[..., :6], atol=1e-5)
        assert is_kept == keep_outside
        assert not torch.allclose(objective.targets[0][..., 8:], plain[..., 8:], atol=0.1)


def test_noise_of_targets_falls_during_the_edit(guidance):
    for progress in (0.0, 0.5, 1.0):
        make("denoised", guidance).loss(make_view(index=0, progress=progress))
    # The prior has 100 timesteps; targets take 8 of them.
    assert guidance.timesteps[::8] == [99, 74, 49]


def test_the_mask_and_the_prompt_decide_what_a_target_shows(guidance):
    def target(prompt, control_image):
        options = with_denoised(noise_levels=(0.9, 0.4), guidance_scale=5.0)
        objective = make("denoised", guidance, options, prompt=prompt)
        objective.loss(make_view(index=0, control_image=control_image))
        return objective.targets[0]

    first = target("a cat", picture(2).abs())
    assert torch.equal(target("a cat", picture(2).abs()), first)
    assert not torch.equal(target("a dog!", picture(2).abs()), first)
    assert not torch.equal(target("a cat", picture(2).abs() / 2), first)


@pytest.mark.parametrize(
    "values",
    [
        {"noise_levels": (0.9, 0.0)},
        {"noise_levels": (1.1, 0.4)},
        {"num_denoising_steps": 0},
        {"refresh_interval": 0},
        {"num_views": 0},
        {"edge_weight": -1.0},
        {"guidance_scale": -1.0},
    ],
)
def test_wrong_options_name_the_option(values):
    with pytest.raises(UserError, match=f"{next(iter(values))}="):
        DenoisedOptions(**values)
