"""The ControlNet guidance computes what diffusers' own pipeline computes."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from editing.guidance.base import PromptEmbeds
from editing.guidance.loading import load_controlnet_guidance
from editing.options import GuidanceOptions
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ, colorize_label_map
from tests.editing.conftest import make_tiny_pipeline


@pytest.fixture(scope="module")
def guidance(prior_folder):
    return load_controlnet_guidance(GuidanceOptions(str(prior_folder)))


@pytest.fixture(scope="module")
def pipeline():
    return make_tiny_pipeline()


def make_inputs():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    control_image = torch.rand(1, 3, 32, 32, generator=generator)
    return latents, control_image


SCALES = {"guidance_scale": 5.0, "controlnet_conditioning_scale": 0.7}


def predict_by_pipeline(pipeline, monkeypatch, prompt):
    """Return noise and timestep of the first step of diffusers' own pipeline."""
    latents, control_image = make_inputs()
    seen, step = [], pipeline.scheduler.step

    def record(noise_pred, timestep, *args, **kwargs):
        seen.append((noise_pred, timestep))
        return step(noise_pred, timestep, *args, **kwargs)

    options = {"num_inference_steps": 1, "output_type": "latent", **SCALES}
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.scheduler, "step", record)
        pipeline(prompt=prompt, image=control_image, latents=latents, **options)
    [(noise_pred, timestep)] = seen
    return noise_pred, timestep.view(1)


def test_guided_noise_equals_the_first_step_of_the_pipeline(guidance, pipeline, monkeypatch):
    latents, control_image = make_inputs()
    noise_pred, timestep = predict_by_pipeline(pipeline, monkeypatch, "a cat")
    embeds = guidance.encode_prompt("a cat")
    ours = guidance.predict_noise(latents, timestep, embeds, control_image, **SCALES)
    torch.testing.assert_close(ours, noise_pred)
    ours = guidance.encode_prompt("a cat", "blue")
    theirs = pipeline.encode_prompt("a cat", "cpu", 1, True, negative_prompt="blue")
    torch.testing.assert_close(ours.prompt, theirs[0])
    torch.testing.assert_close(ours.negative_prompt, theirs[1])


def test_each_label_gets_the_pipelines_noise_of_its_prompt(guidance, pipeline, monkeypatch):
    # Label 2 covers the left half and label 3 an eighth of a latent; both lie on 4 px latents.
    label_map = torch.ones(1, 32, 32, dtype=torch.int64)
    label_map[:, :, :16] = 2
    label_map[:, 4:8, 20:22] = 3
    expected, timestep = predict_by_pipeline(pipeline, monkeypatch, "a cat")
    ears, eyes = (predict_by_pipeline(pipeline, monkeypatch, text)[0] for text in ("ears", "eyes"))
    share = torch.zeros(1, 1, 8, 8)
    share[..., 1, 5] = 0.5
    expected = expected + share * (eyes - expected)
    expected[..., :4] = ears[..., :4]
    latents, control_image = make_inputs()
    embeds = guidance.encode_prompt("a cat", label_prompts={2: "ears", 3: "eyes", 5: "nose"})
    embeds = replace(embeds, label_map=label_map)
    batch_sizes = []
    monkeypatch.setattr(guidance.unet, "forward", note_batch(guidance.unet.forward, batch_sizes))
    ours = guidance.predict_noise(latents, timestep, embeds, control_image, **SCALES)
    torch.testing.assert_close(ours, expected)
    # One call: without a prompt, everywhere, ears and eyes; no nose is visible.
    assert batch_sizes == [4]
    # The same for several latents that share a label map, or have their own.
    twice = torch.cat([latents, latents.flip(-1)]), timestep.repeat(2)
    for maps in (label_map, label_map.repeat(2, 1, 1)):
        embeds = replace(embeds, label_map=maps)
        both = guidance.predict_noise(*twice, embeds, control_image, **SCALES)
        torch.testing.assert_close(both[:1], expected)


def note_batch(forward, batch_sizes):
    def noting(sample, *args, **kwargs):
        batch_sizes.append(len(sample))
        return forward(sample, *args, **kwargs)

    return noting


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_negative_prompt_is_left_out_at_scale_1_and_what_prompts_add_takes_one_call(
    guidance, monkeypatch, prediction_type
):
    monkeypatch.setattr(guidance, "prediction_type", prediction_type)
    label_map = torch.randint(0, 3, (1, 32, 32), generator=torch.Generator().manual_seed(1))
    embeds = guidance.encode_prompt("a cat", "blue", label_prompts={2: "ears"})
    embeds = replace(embeds, label_map=label_map)
    (latents, control_image), timestep, batch_sizes = make_inputs(), torch.tensor([700]), []
    monkeypatch.setattr(guidance.unet, "forward", note_batch(guidance.unet.forward, batch_sizes))

    def predict(scale, **options):
        scales = {"guidance_scale": scale, "controlnet_conditioning_scale": 0.7}
        return guidance.predict_noise(latents, timestep, embeds, control_image, **scales, **options)

    without, with_prompts, double = predict(0.0), predict(1.0), predict(2.0)
    added = predict(2.0, only_added=True)
    assert batch_sizes == [3, 2, 3, 3]
    torch.testing.assert_close(double, 2 * with_prompts - without, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(added, double - without, rtol=1e-4, atol=1e-4)
    for scale in (0.0, 1.0):
        added = predict(scale, only_added=True)
        torch.testing.assert_close(added, scale * (with_prompts - without), rtol=1e-4, atol=1e-4)


class MovedEncoder(torch.nn.Module):
    """A text encoder that notes where it is when it is moved and called."""

    config = None

    def __init__(self):
        super().__init__()
        self.places: list[str] = []

    def to(self, device):
        self.places.append(str(device))
        return self

    def forward(self, input_ids, attention_mask):
        self.places.append(f"called with {input_ids.device}")
        return (torch.zeros(len(input_ids), 8, 16),)


def test_the_text_encoder_is_on_the_device_only_while_it_encodes(prior_folder):
    guidance = load_controlnet_guidance(GuidanceOptions(str(prior_folder)))
    guidance.text_encoder = MovedEncoder()
    guidance.alphas_cumprod = guidance.alphas_cumprod.to("meta")
    for _ in range(2):
        guidance.encode_prompt("a cat", label_prompts={2: "ears"})
    assert guidance.text_encoder.places == ["meta", "called with meta", "cpu"] * 2


def test_one_prompt_for_all_labels_is_the_global_prompt(guidance):
    latents, control_image = make_inputs()
    label_map = torch.randint(0, 4, (1, 32, 32), generator=torch.Generator().manual_seed(1))
    timestep, embeds = torch.tensor([100]), guidance.encode_prompt("a cat")
    plain = guidance.predict_noise(latents, timestep, embeds, control_image, **SCALES)
    same = guidance.encode_prompt("a cat", label_prompts=dict.fromkeys(range(4), "a cat"))
    ours = guidance.predict_noise(latents, timestep, same, control_image, **SCALES)
    assert torch.equal(ours, plain)
    labels = {(class_id,): embeds.prompt for class_id in range(4)}
    same = replace(embeds, label_prompts=labels, label_map=label_map)
    ours = guidance.predict_noise(latents, timestep, same, control_image, **SCALES)
    torch.testing.assert_close(ours, plain)
    # Labels with the same text cost one prediction.
    assert len(guidance.encode_prompt("", label_prompts={1: "ears", 2: "ears"}).label_prompts) == 1
    with pytest.raises(ValueError, match="label map"):
        without = replace(same, label_map=None)
        guidance.predict_noise(latents, timestep, without, control_image, **SCALES)


def test_the_demo_priors_prompts_stay_in_their_label():
    guidance = load_controlnet_guidance(GuidanceOptions())
    label_map = torch.ones(1, 128, 128, dtype=torch.int64)
    label_map[:, 10:50, 10:50] = CATMASK_HQ.class_id("ears")
    control_image = (colorize_label_map(label_map, CATMASK_HQ) + 1) / 2
    size = guidance.unet.config.sample_size
    latents = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(0))
    embeds = guidance.encode_prompt("a white cat", label_prompts={2: "a cat with black ears"})
    inputs = latents, torch.tensor([600])
    white = guidance.predict_noise(
        *inputs, replace(embeds, label_prompts={}), control_image, **SCALES
    )
    both = guidance.predict_noise(
        *inputs, replace(embeds, label_map=label_map), control_image, **SCALES
    )
    difference = (both - white).abs().amax(dim=1, keepdim=True)
    touched = torch.nn.functional.adaptive_max_pool2d((label_map == 2).float(), size)[None] > 0
    assert difference[touched].min() > 1e-3
    assert difference[~touched].max() < 1e-5


def test_noise_that_is_not_finite_is_not_hidden(prior_folder):
    guidance = load_controlnet_guidance(GuidanceOptions(str(prior_folder)))
    guidance.unet.conv_out.bias.data[0] = torch.nan
    latents, control_image = make_inputs()
    embeds = guidance.encode_prompt("a cat")
    noise = guidance.predict_noise(latents, torch.tensor([5]), embeds, control_image, **SCALES)
    assert noise[:, 0].isnan().all() and noise[:, 1:].isfinite().all()


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
    guidance = load_controlnet_guidance(GuidanceOptions(str(prior_folder)))
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
    guidance = load_controlnet_guidance(GuidanceOptions(str(tmp_path / "sd")))
    latents, control_image = make_inputs()
    scales = {"guidance_scale": 2.0, "controlnet_conditioning_scale": 1.0}
    inputs = latents, torch.tensor([5]), guidance.encode_prompt("a cat")
    guidance.predict_noise(*inputs, None, **scales)
    with pytest.raises(UserError, match="no ControlNet"):
        guidance.predict_noise(*inputs, control_image, **scales)
    pipeline.controlnet.save_pretrained(tmp_path / "controlnet")
    guidance = load_controlnet_guidance(
        GuidanceOptions(str(tmp_path / "sd"), str(tmp_path / "controlnet"))
    )
    guidance.predict_noise(*inputs, control_image, **scales)


def test_compiled_networks_give_the_same_noise(guidance, prior_folder, monkeypatch):
    # Traced whole, without minutes of compilation.
    compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile(module, backend="eager"))
    torch._dynamo.reset()
    compiled = load_controlnet_guidance(GuidanceOptions(str(prior_folder), compile=True))
    latents, control_image = make_inputs()
    embeds, counters = guidance.encode_prompt("a cat"), torch._dynamo.utils.counters
    counters.clear()
    inputs = latents, torch.tensor([300]), embeds, control_image
    found = compiled.predict_noise(*inputs, **SCALES)
    torch.testing.assert_close(found, guidance.predict_noise(*inputs, **SCALES))
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]


def test_networks_that_cannot_be_compiled_name_the_option(prior_folder):
    def broken(graph, inputs):
        raise OSError("no compiler here\nand more")

    guidance = load_controlnet_guidance(GuidanceOptions(str(prior_folder)))
    # A part is enough, and fails sooner.
    guidance.unet.conv_in.compile(backend=broken)
    inputs = make_inputs()[0], torch.tensor([300]), guidance.encode_prompt("a cat"), None
    with pytest.raises(UserError, match="guidance.compile=true does not work.*no compiler here"):
        guidance.predict_noise(*inputs, **SCALES)
