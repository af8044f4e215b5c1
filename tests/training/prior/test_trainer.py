"""The whole training of a prior at tiny size: folder, base, wrong input."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from safetensors.torch import load_file

from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ
from scripts import train_prior as script
from tests.training.data.shard_data import edit_json
from training.prior import trainer
from training.prior.models import draw_samples
from training.prior.options import (
    AutoencoderOptions,
    DiffusionOptions,
    PriorArchitecture,
    PriorOptions,
)
from training.prior.quality import measure_quality
from training.prior.trainer import train_prior

TINY = PriorArchitecture(
    vae_channels=(8, 16),
    vocabulary_size=560,
    max_tokens=12,
    text_width=16,
    text_layers=1,
    unet_channels=(8, 16),
    attention_levels=(False, True),
    attention_heads=2,
    norm_groups=4,
    control_channels=(8, 16),
)


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch):
    """Draw in two steps, and measure with a segmenter that has learned little."""
    monkeypatch.setattr(trainer, "draw_samples", partial(draw_samples, num_inference_steps=2))
    measure = partial(measure_quality, num_inference_steps=2, segmenter_steps=5)
    monkeypatch.setattr(trainer, "measure_quality", measure)


@pytest.fixture
def options(dataset_folder: Path, tmp_path: Path) -> PriorOptions:
    """Two steps of the autoencoder and four of the denoiser on six 16 px pictures."""
    return PriorOptions(
        dataset_path=str(dataset_folder),
        output=str(tmp_path / "prior"),
        resolution=16,
        architecture=TINY,
        autoencoder=AutoencoderOptions(
            steps=2, batch_size=2, learning_rate=1e-3, num_normal_maps=1
        ),
        diffusion=DiffusionOptions(steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1),
        tick_steps=2,
        snapshot_steps=2,
        num_samples=1,
    )


@pytest.fixture(scope="module")
def cached_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Remember one run for the tests that only read it."""
    return tmp_path_factory.mktemp("prior") / "run"


@pytest.fixture
def trained(options: PriorOptions, cached_run: Path) -> Path:
    """Run folder of a finished training."""
    if not cached_run.exists():
        train_prior(replace(options, output=str(cached_run), quality_samples=2))
    return cached_run


def _weights(model: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}.{name}": tensor
        for path in model.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def test_folder_loads_in_the_pipeline_of_diffusers_and_draws(trained):
    model = trained / "model"
    controlnet = ControlNetModel.from_pretrained(model / "controlnet")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(model, controlnet=controlnet)
    modules = (pipeline.vae, pipeline.text_encoder, pipeline.unet, pipeline.controlnet)
    assert {next(module.parameters()).dtype for module in modules} == {torch.float32}
    images = pipeline(
        "cat number 3", image=torch.rand(1, 3, 16, 16), num_inference_steps=2, output_type="np"
    ).images
    assert images.shape == (1, 16, 16, 3)
    # Other readers of the format expect these two.
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (model / "tokenizer").iterdir()}
    floating = {t.dtype for t in _weights(model).values() if t.is_floating_point()}
    assert floating == {torch.float16}


def test_run_folder_holds_stats_quality_and_pictures_of_both_stages(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"reconstructions_000002.png", "samples_000002.png", "samples_000004.png"} <= names
    records = [json.loads(line) for line in (trained / "stats.jsonl").read_text().splitlines()]
    assert [record["images_seen"] for record in records] == [4, 8, 12]
    assert "Loss/autoencoder/loss" in records[0] and "Loss/diffusion/loss" in records[-1]
    quality = json.loads((trained / "quality.json").read_text())
    assert 0 <= quality["mask_iou"] <= 1 and quality["reconstruction_psnr"] > 0
    assert set(quality["class_iou"]) <= set(CATMASK_HQ.class_names)


def test_data_set_without_captions_is_refused(options, dataset_folder):
    edit_json(dataset_folder / "dataset.json", lambda index: index.pop("captions"))
    with pytest.raises(UserError, match="no caption for 6 of 6 images"):
        train_prior(options)


def test_options_that_do_not_fit_are_refused(options, trained):
    with pytest.raises(UserError, match="must be less than the 6 images"):
        train_prior(replace(options, output=str(trained), resume=True, quality_samples=6))
    with pytest.raises(UserError, match="multiple of 4"):
        train_prior(replace(options, resolution=15))


# The script.


def test_script_trains_a_base_and_a_controlnet_on_top_of_it(dataset_folder, tmp_path):
    words = [f"data={dataset_folder}", "debug=tiny", "prior.resolution=16", "device=cpu"]
    base, output = tmp_path / "base", tmp_path / "output"
    script.main([*words, f"output={base}"])
    assert (base / "config.yaml").is_file()
    script.main([*words, f"output={output}", "prior=controlnet", f"prior.base={base / 'model'}"])
    assert [path.name for path in (output / "model").iterdir()] == ["controlnet"]
    controlnet = ControlNetModel.from_pretrained(output / "model" / "controlnet")
    assert controlnet.config.conditioning_embedding_out_channels == [16, 32]
    StableDiffusionControlNetPipeline.from_pretrained(base / "model", controlnet=controlnet)
    assert any(weight.any() for weight in controlnet.controlnet_down_blocks.parameters())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=nowhere"], "not found: nowhere"),
        (["prior.base=nowhere"], "prior.base not found: nowhere"),
        (["prior=controlnet"], "missing required option: prior.base=..."),
        (["resume=true"], "nothing to resume"),
        (["prior.diffusion.stepss=3"], "unknown option 'prior.diffusion.stepss'"),
    ],
)
def test_script_ends_in_one_line_on_wrong_input(dataset_folder, tmp_path, fail, words, message):
    fixed = [f"data={dataset_folder}", f"output={tmp_path / 'out'}", "debug=tiny"]
    assert message in fail(script.main, *fixed, "prior.resolution=16", *words)
