"""The whole training of a prior at tiny size: folder, base, wrong input."""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from safetensors.torch import load_file

from mate3d.checkpoints.storage import load_document
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ
from scripts import train_prior as script
from tests.mate3d.photo.networks import save_segmenter
from tests.training.data.shard_data import edit_json, write_shards
from training.data.preparation.photo_options import ParsingOptions
from training.prior import quality, trainer
from training.prior.data import CaptionedDatasets, DatasetPart, load_images
from training.prior.models import load_base, optimizer_class
from training.prior.options import (
    AutoencoderOptions,
    DiffusionOptions,
    PriorArchitecture,
    PriorOptions,
)
from training.prior.quality import QualityCheck, train_segmenter
from training.prior.trainer import train_prior
from training.run_folder.state_file import STATE_FILE

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
def _quick_quality(monkeypatch):
    """Measure with a segmenter that has learned little."""
    monkeypatch.setattr(quality, "train_segmenter", partial(train_segmenter, steps=5))


@pytest.fixture
def options(dataset_folder: Path, tmp_path: Path) -> PriorOptions:
    """Two steps of the autoencoder and four of the denoiser on six 16 px pictures."""
    return PriorOptions(
        dataset_paths=(str(dataset_folder),),
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
        num_inference_steps=2,
    )


@pytest.fixture(scope="module")
def cached_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Remember one run for the tests that only read it."""
    return tmp_path_factory.mktemp("prior") / "run"


@pytest.fixture
def trained(options: PriorOptions, cached_run: Path) -> Path:
    """Run folder of a finished training on cats and people."""
    if not cached_run.exists():
        people = write_shards(cached_run.parent / "people", num_samples=4, side=16)
        paths = (*options.dataset_paths, str(people))
        train_prior(
            replace(options, dataset_paths=paths, output=str(cached_run), quality_samples=2)
        )
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
    cats, people = json.loads((trained / "quality.json").read_text()).values()
    for measured, label_set in ((cats, CATMASK_HQ), (people, CELEBAMASK_HQ)):
        assert 0 <= measured["mask_iou"] <= 1 and measured["reconstruction_psnr"] > 0
        assert set(measured["class_iou"]) <= set(label_set.class_names)


def test_data_set_without_captions_is_refused(options, dataset_folder):
    edit_json(dataset_folder / "dataset.json", lambda index: index.pop("captions"))
    with pytest.raises(UserError, match="no caption for 6 of 6 images"):
        train_prior(options)


def test_options_that_do_not_fit_are_refused(options, trained):
    with pytest.raises(UserError, match="must be less than the 6 images"):
        train_prior(replace(options, output=str(trained), resume=True, quality_samples=6))
    with pytest.raises(UserError, match="another model or dataset"):
        train_prior(replace(options, output=str(trained), resume=True))
    with pytest.raises(UserError, match="precision=fp16 needs a GPU"):
        train_prior(replace(options, precision="fp16"))
    for base in (None, str(trained / "model")):
        with pytest.raises(UserError, match="prior.resolution=14; use a multiple of 4"):
            train_prior(replace(options, resolution=14, base=base))


def test_run_does_not_go_on_with_another_base(options, trained, tmp_path):
    other = tmp_path / "other" / "model"
    shutil.copytree(trained / "model", other)
    run = replace(
        options,
        base=str(trained / "model"),
        diffusion=replace(options.diffusion, steps=2, control_dropout=0.0),
    )
    train_prior(run)
    with pytest.raises(UserError, match="belongs to a run with another model"):
        train_prior(replace(run, base=str(other), resume=True))


def test_parser_measures_samples_by_the_classes_that_it_sees(options, trained, tmp_path):
    names = [*CATMASK_HQ.class_names]
    parser = save_segmenter(tmp_path / "parser", names, only_class=names.index("skin"))
    parsing = ParsingOptions(model=str(parser), label_set="catmask_hq")
    datasets = CaptionedDatasets(options.dataset_paths, 16, num_held_out=2)
    check = QualityCheck(datasets, replace(options, quality_samples=2, quality_parser=parsing))
    networks = load_base(trained / "model")
    (measured,) = check.measure(networks).values()
    label_maps = load_images(DatasetPart(datasets.sources[0], range(4, 6))).label_maps
    share = (label_maps == names.index("skin")).float().mean().item()
    others = dict.fromkeys(names, 0.0)
    assert measured.class_iou == pytest.approx(others | {"skin": share})
    # The captions name no colours.
    assert measured.color_agreement == {}


def test_large_images_need_a_parser_that_fits(options, tmp_path):
    datasets = CaptionedDatasets(options.dataset_paths, 16)
    with pytest.raises(UserError, match="needs quality_parser.model"):
        QualityCheck(datasets, replace(options, resolution=512))
    parser = save_segmenter(tmp_path / "parser", [*CELEBAMASK_HQ.class_names])
    parsing = ParsingOptions(model=str(parser), label_set="celebamask_hq")
    with pytest.raises(UserError, match="cannot convert label set celebamask_hq to catmask_hq"):
        QualityCheck(datasets, replace(options, quality_parser=parsing))


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet", "controlnet"])
def test_base_that_gives_nan_ends_in_one_line_and_keeps_the_last_snapshot(
    options, trained, tmp_path, monkeypatch, part
):
    run = replace(
        options,
        base=str(trained / "model"),
        diffusion=replace(options.diffusion, steps=2, control_dropout=0.0),
    )
    model = train_prior(run)
    files = {path: path.read_bytes() for path in [*model.rglob("*.*"), run_state(run)]}

    def load_damaged(*arguments):
        networks = load_base(*arguments)
        next(networks.modules()[part].parameters()).data.fill_(float("nan"))
        return networks

    monkeypatch.setattr(trainer, "load_base", load_damaged)
    state = load_document(run_state(run))
    if part == "controlnet":
        state["networks"] = {name: value * torch.nan for name, value in state["networks"].items()}
        monkeypatch.setattr(trainer, "read_state", lambda *_: state)
    with pytest.raises(UserError, match="diverged at step 3 .loss is nan|that are not finite"):
        train_prior(replace(run, diffusion=options.diffusion, resume=True))
    assert all(path.read_bytes() == content for path, content in files.items())


def run_state(options: PriorOptions) -> Path:
    return Path(options.output) / STATE_FILE


def test_optimizer_in_8_bits_needs_a_gpu_and_its_library(options, monkeypatch):
    changed = replace(options, diffusion=replace(options.diffusion, optimizer="adamw_8bit"))
    with pytest.raises(UserError, match="optimizer=adamw_8bit needs a GPU"):
        train_prior(changed)
    gpu = torch.device("cuda")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="needs bitsandbytes"):
        optimizer_class("adamw_8bit", gpu)
    fake = SimpleNamespace(optim=SimpleNamespace(AdamW8bit=torch.optim.Adam))
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", fake.optim)
    assert optimizer_class("adamw_8bit", gpu) is torch.optim.Adam


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
