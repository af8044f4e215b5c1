"""The training script on a dataset of its own format: output, init_from, errors."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mate3d.checkpoint import load_generator, save_generator
from mate3d.errors import UserError
from mate3d.generator import Generator
from scripts import train
from scripts._compose import read_options
from tests.eg3d import make_generator
from tests.official_format import make_network, published_state, write_snapshot


def make_words(cats: Path, folder: Path, *words: str) -> list[str]:
    """Three iterations, one a tick."""
    short = ["debug=tiny", "train.tick_kimg=0.004", "train.total_kimg=0.012"]
    return [*short, f"data={cats}", f"output={folder / 'run'}", *words]


def test_run_folder_holds_everything(cats, tmp_path, capsys):
    words = make_words(cats, tmp_path)
    chosen = ["train.warm_start=procedural", "metrics=none", "ablation=no_density_consistency"]
    train.main([*words, *chosen])
    output = capsys.readouterr().out
    run = tmp_path / "run"
    assert output.count("img/s") >= 3 and f"done: {run / 'checkpoint'}" in output
    assert output.count("the ablation changes nothing") == 1
    for name in ("config.yaml", "log.txt", "git_revision.txt", "training_state.pt"):
        assert (run / name).is_file(), name
    stats = (run / "stats.jsonl").read_text()
    assert "Loss/warm_start/class_sdf" in stats and "Loss/D/loss" in stats
    assert load_generator(run / "checkpoint").config.resolution == 32
    tags = EventAccumulator(str(run)).Reload().Tags()
    assert {"Loss/G/loss", "Loss/G_eikonal/weighted", "Progress/kimg"} <= set(tags["scalars"])
    pictures = {"samples/image", "samples/segmentation", "samples/depth", "samples/normals"}
    assert pictures <= set(tags["images"])
    assert "python -m scripts.train debug=tiny" in (run / "checkpoint" / "card.md").read_text()


DENSITY = ["rendering=released", "model.generator.geometry=density"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data={tmp}/none"], "{tmp}/none"),
        (["dataset.label_set=celebamask_hq"], "catmask_hq, the model"),
        (["dataset=folder"], "dataset.label_set=null; is required with source=folder"),
        (["model.generator.resolution=64"], "resolution=64"),
        (["model.generator.sr_input_resolution=12"], "12 to 32"),
        (["train.tick_kimg=0.0"], "train.tick_kimg=0.0; use a number of at least 0.001"),
        (["train.warm_start=magic"], "train.warm_start=magic; use one of: none, procedural"),
        (["loss.eikonall=1"], "unknown option 'loss.eikonall'; did you mean loss.eikonal"),
        (["resume=true"], "nothing to resume"),
        (["init_from={tmp}/missing.pkl"], "{tmp}/missing.pkl"),
        (["train.precision=fp16"], "model.generator.backbone_clamp"),
        (DENSITY, "no distances for loss.eikonal, loss.minimal_surface"),
    ],
)
def test_wrong_options_are_named(cats, tmp_path, fail, words, message):
    words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    line = fail(train.main, *make_words(cats, tmp_path, *words))
    assert message.replace("{tmp}", str(tmp_path)) in line


def read_train_options(*words: str) -> train.TrainOptions:
    return read_options("train", [*words, "data=mine.zip", "output=none"])


@pytest.mark.parametrize(("side", "fitting"), [(300, "photos_256"), (200, "photos_128")])
def test_photos_that_are_too_small_name_the_experiment_that_fits(side, fitting):
    with pytest.raises(UserError, match=f"=512; mine.zip has .* {side} px; .*={fitting}"):
        train._check_size(read_train_options(), side)
    train._check_size(read_train_options(f"experiment={fitting}"), side)


def _make_source() -> Generator:
    """Return an EG3D generator of debug=tiny's sizes."""
    return make_generator(
        z_dim=64,
        w_dim=32,
        plane_resolution=16,
        plane_channels=8,
        channel_base=256,
        channel_max=32,
        num_features=16,
        neural_rendering_resolution=16,
        sr_input_resolution=16,
        resolution=32,
        sr_channels=(16, 8),
    )


def test_starts_from_a_checkpoint_and_resumes_without_it(cats, tmp_path, capsys):
    source = tmp_path / "eg3d"
    save_generator(source, _make_source())
    words = make_words(cats, tmp_path, f"init_from={source}", "metrics=none")
    train.main([*words, "train.total_kimg=0.004"])
    output = capsys.readouterr().out
    assert f"init_from={source}" in output
    assert "model.generator.plane_layout=eg3d_legacy" in output
    assert "decoder.sdf_head.0.weight" in (tmp_path / "run" / "log.txt").read_text()
    (source / "config.yaml").unlink()
    train.main([*words, "train.total_kimg=0.008", "resume=true"])
    assert "perturbed" not in capsys.readouterr().out


def test_starts_from_a_published_eg3d_file(cats, tmp_path, capsys):
    source = _make_source()
    network = make_network(source, published_state(source))
    path = write_snapshot(tmp_path / "ffhq.pkl", G_ema=network)
    words = [f"init_from={path}", "optimizer.generator_lr=0.0", "metrics=none"]
    train.main(make_words(cats, tmp_path, *words, "train.total_kimg=0.004"))
    assert "of the shape branch from the source's one branch" in capsys.readouterr().out
    state = load_generator(tmp_path / "run" / "checkpoint").state_dict()
    rows = source.decoder.density_head[2].weight[1:]
    assert torch.equal(state["decoder.color_head.2.weight"], rows)
