"""The ControlNet guidance computes what diffusers' own pipeline computes."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from editing.guidance.base import PromptEmbeds
from editing.guidance.controlnet import load_controlnet_guidance
from mate3d.errors import UserError
from tests.editing.conftest import make_tiny_pipeline


@pytest.fixture(scope="module")
def guidance(prior_folder):
    return load_controlnet_guidance(str(prior_folder))


@pytest.fixture(scope="module")
def pipeline():
    return make_tiny_pipeline()


def make_inputs():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    control_image = torch.rand(1, 3, 32, 32, generator=generator)
    return latents, control_image


def test_guided_noise_equals_the_first_step_of_the_pipeline(guidance, pipeline):
    latents, control_image = make_inputs()
    seen, step = [], pipeline.scheduler.step

    def record(noise_pred, timestep, *args, **kwargs):
        seen.append((noise_pred, timestep))
        return step(noise_pred, timestep, *args, **kwargs)

    pipeline.scheduler.step = record
    scales = {"guidance_scale": 5.0, "controlnet_conditioning_scale": 0.7}
    options = {"num_inference_steps": 1, "output_type": "latent", **scales}
    pipeline(prompt="a cat", image=control_image, latents=latents, **options)
    [(noise_pred, timestep)] = seen
    embeds = guidance.encode_prompt("a cat")
    ours = guidance.predict_noise(latents, timestep.view(1), embeds, control_image, **scales)
    torch.testing.assert_close(ours, noise_pred)
    ours = guidance.encode_prompt("a cat", "blue")
    theirs = pipeline.encode_prompt("a cat", "cpu", 1, True, negative_prompt="blue")
    torch.testing.assert_close(ours.prompt, theirs[0])
    torch.testing.assert_close(ours.negative_prompt, theirs[1])


def test_mask_condition_changes_the_noise_and_none_ignores_it(guidance):
    latents, control_image = make_inputs()
    latents.requires_grad_(True)
    scales = {"guidance_scale": 1.0, "controlnet_conditioning_scale": 1.0}
    embeds, timestep = guidance.encode_prompt("a cat"), torch.tensor([100])
    with_mask = guidance.predict_noise(latents, timestep, embeds, control_image, **scales)
    without = guidance.predict_noise(latents, timestep, embeds, None, **scales)
    plain = guidance.unet(latents, timestep, embeds.prompt).sample
    assert (with_mask - without).abs().max() > 1e-3
    torch.testing.assert_close(without, plain)
    assert not with_mask.requires_grad
    assert not any(parameter.requires_grad for parameter in guidance.parameters())


def test_latents_have_the_priors_scale_and_pass_gradients(guidance):
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    latents = guidance.encode_image(image)
    assert latents.shape == (1, 4, 8, 8)
    small = torch.nn.functional.interpolate(image, size=(32, 32), mode="bilinear", antialias=True)
    expected = guidance.vae.encode(small).latent_dist.mean * guidance.vae.config.scaling_factor
    torch.testing.assert_close(latents, expected)
    latents.sum().backward()
    assert image.grad.abs().sum() > 0


def test_decoding_undoes_the_scale_of_latents_without_gradients(guidance):
    latents = make_inputs()[0].requires_grad_(True)
    image = guidance.decode_latents(latents)
    expected = guidance.vae.decode(latents / guidance.vae.config.scaling_factor).sample
    torch.testing.assert_close(image, expected.clamp(-1, 1))
    assert image.shape == (1, 3, 32, 32) and not image.requires_grad


def test_velocity_predictions_are_turned_into_noise(prior_folder):
    guidance = load_controlnet_guidance(str(prior_folder))
    guidance.prediction_type = "v_prediction"
    clean, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    timestep = torch.tensor([300])
    alpha = guidance.alphas_cumprod[timestep]
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    guidance.unet.forward = lambda sample, **_: type(
        "Output", (), {"sample": velocity.repeat(2, 1, 1, 1)}
    )
    embeds = PromptEmbeds(torch.zeros(1, 8, 16), torch.zeros(1, 8, 16))
    scales = {"guidance_scale": 3.0, "controlnet_conditioning_scale": 1.0}
    noise_pred = guidance.predict_noise(noisy, timestep, embeds, None, **scales)
    torch.testing.assert_close(noise_pred, noise, rtol=1e-4, atol=1e-4)


def test_a_prior_without_controlnet_serves_text_only(pipeline, tmp_path):
    parts = {name: part for name, part in pipeline.components.items() if name != "controlnet"}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path / "sd")
    guidance = load_controlnet_guidance(str(tmp_path / "sd"))
    latents, control_image = make_inputs()
    scales = {"guidance_scale": 2.0, "controlnet_conditioning_scale": 1.0}
    inputs = latents, torch.tensor([5]), guidance.encode_prompt("a cat")
    guidance.predict_noise(*inputs, None, **scales)
    with pytest.raises(UserError, match="no ControlNet"):
        guidance.predict_noise(*inputs, control_image, **scales)
    pipeline.controlnet.save_pretrained(tmp_path / "controlnet")
    guidance = load_controlnet_guidance(str(tmp_path / "sd"), str(tmp_path / "controlnet"))
    guidance.predict_noise(*inputs, control_image, **scales)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": "tests"}, "no model_index.json"),
        ({"prior": "PRIOR", "controlnet": "tests"}, "no config.json"),
        ({"prior": "nowhere"}, "guidance.prior not found: nowhere.*: demo_prior"),
        ({"prior": "RUN"}, "no model_index.json.*; use .*run.model$"),
        ({"prior": "PRIOR", "controlnet": "RUN"}, "no config.json.*; use .*run.model.controlnet$"),
        ({"prior": "PRIOR", "controlnet": "RUN/model"}, "; use .*run.model.controlnet$"),
        ({"prior": "DAMAGED"}, "cannot load guidance"),
    ],
)
def test_wrong_locations_are_named(prior_folder, tmp_path, arguments, message):
    (tmp_path / "run" / "model" / "controlnet").mkdir(parents=True)
    (tmp_path / "run" / "model" / "controlnet" / "config.json").touch()
    (tmp_path / "run" / "model" / "model_index.json").write_text("{broken")
    places = {"PRIOR": prior_folder, "RUN": tmp_path / "run", "DAMAGED": tmp_path / "run/model"}
    for place, path in places.items():
        arguments = {name: text.replace(place, str(path)) for name, text in arguments.items()}
    with pytest.raises(UserError, match=message):
        load_controlnet_guidance(**arguments)
