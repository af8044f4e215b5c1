"""Objectives: gradients are their formulas, and denoised targets are diffusers' own pictures."""

import dataclasses
import math

import pytest
import torch
import torchvision
from diffusers import DDIMScheduler, StableDiffusionControlNetImg2ImgPipeline

from editing.guidance.base import PromptEmbeds
from editing.guidance.controlnet import ControlNetGuidance
from editing.objectives import (
    ObjectiveView,
    add_noise,
    denoise,
    loss_of_gradient,
    make_objective,
    sample_timestep,
)
from editing.options import DenoisedOptions, ObjectiveOptions
from mate3d.checkpoints.assets import named_asset
from mate3d.errors import UserError
from tests.editing.conftest import FakeGuidance

OPTIONS = ObjectiveOptions(final_max_timestep=0.98)
SCALES = {"guidance_scale": 7.5, "controlnet_conditioning_scale": 1.0}


class TellingGuidance(FakeGuidance):
    """A prior whose answer depends on all that it is asked, and that keeps the timesteps."""

    def __init__(self):
        super().__init__()
        self.timesteps: list[int] = []

    def encode_prompt(self, prompt: str, negative_prompt: str = "") -> PromptEmbeds:
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
    ):
        super().predict_noise(noisy_latents, timestep, prompt_embeds, control_image)
        self.timesteps.append(timestep.item())
        with_prompt, without = (
            (embeds.mean() + 1) * self.noise_pred
            for embeds in (prompt_embeds.prompt, prompt_embeds.negative_prompt)
        )
        asked = 0.3 * noisy_latents + 0.01 * timestep.view(-1, 1, 1, 1)
        if control_image is not None:
            asked = asked + controlnet_conditioning_scale * control_image.mean()
        return asked + without + guidance_scale * (with_prompt - without)


@pytest.fixture
def guidance():
    return TellingGuidance()


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


def put_alexnet(folder, monkeypatch):
    """Store a file where torchvision looks for AlexNet's weights; loading it gives random ones."""
    name = torchvision.models.AlexNet_Weights.DEFAULT.url.rpartition("/")[2]
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / name).touch()
    with torch.device("meta"):
        network = torchvision.models.alexnet()
    network.features.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in network.features.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    monkeypatch.setattr(torchvision.models, "alexnet", lambda weights: network)


def test_perceptual_difference_is_torchmetrics_own_inside(guidance, tmp_path, monkeypatch):
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match="perceptual_weight needs .*alexnet.*perceptual_weight=0"):
        make("denoised", guidance, with_denoised(perceptual_weight=0.5))
    put_alexnet(tmp_path, monkeypatch)
    guidance.image_size = 64
    inside = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    inside[..., 32:] = True
    view = make_view(image=picture(0, 64).requires_grad_(True), inside=inside, index=0)
    plain = make("denoised", guidance).loss(view).item()
    objective = make("denoised", guidance, with_denoised(perceptual_weight=0.5))
    loss = objective.loss(view)
    pasted = torch.where(inside, objective.targets[0], view.image)
    expected = learned_perceptual_image_patch_similarity(view.image, pasted, net_type="alex")
    assert loss.item() - plain == pytest.approx(0.5 * expected.item() / 0.5, rel=1e-3)
    assert torch.autograd.grad(loss, view.image)[0][..., 32:].abs().sum() > 0


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
