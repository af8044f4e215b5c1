"""`python -m scripts.train init_from=...` from end to end."""

from pathlib import Path

import pytest
import torch

from mate3d.checkpoint import load_generator, save_generator
from mate3d.generator import Generator
from scripts import prepare_data, train
from tests.eg3d import make_generator
from tests.official_format import make_network, published_state, write_snapshot


@pytest.fixture(scope="module")
def cats(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cats")
    prepare_data.main(["debug=tiny", f"output={folder / 'data'}", f"paths.outputs={folder}"])
    return folder / "data"


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
    save_generator(tmp_path / "eg3d", _make_source())
    words = ["debug=tiny", f"data={cats}", f"output={tmp_path / 'run'}"]
    words += [f"init_from={tmp_path / 'eg3d'}"]
    train.main([*words, "train.total_kimg=0.004"])
    output = capsys.readouterr().out
    assert f"init_from={tmp_path / 'eg3d'}" in output
    assert "model.generator.plane_layout=eg3d_legacy" in output
    assert "decoder.sdf_head.0.weight" in (tmp_path / "run" / "log.txt").read_text()
    (tmp_path / "eg3d" / "config.yaml").unlink()
    train.main([*words, "train.total_kimg=0.008", "resume=true"])
    assert "perturbed" not in capsys.readouterr().out


def test_starts_from_a_published_eg3d_file(cats, tmp_path, capsys):
    source = _make_source()
    network = make_network(source, published_state(source))
    path = write_snapshot(tmp_path / "ffhq.pkl", G_ema=network)
    words = ["debug=tiny", f"data={cats}", f"output={tmp_path / 'run'}", "train.total_kimg=0.004"]
    train.main([*words, f"init_from={path}", "optimizer.generator_lr=0.0"])
    output = capsys.readouterr().out
    assert "of the shape branch from the source's one branch" in output
    state = load_generator(tmp_path / "run" / "checkpoint").state_dict()
    rows = source.decoder.density_head[2].weight[1:]
    assert torch.equal(state["decoder.color_head.2.weight"], rows)


@pytest.mark.parametrize("name", ["missing", "missing.pkl"])
def test_names_a_source_that_is_not_there(cats, tmp_path, capsys, name):
    words = [f"data={cats}", f"output={tmp_path / 'run'}", f"init_from={tmp_path / name}"]
    with pytest.raises(SystemExit) as caught:
        train.main(["debug=tiny", *words])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(tmp_path / name) in line


def test_trains_a_density_with_labels(cats, tmp_path, capsys):
    words = ["debug=tiny", f"data={cats}", f"output={tmp_path / 'run'}", "train.total_kimg=0.004"]
    words += ["rendering=released", "model.generator.geometry=density"]
    with pytest.raises(SystemExit):
        train.main(words)
    assert "no distances for loss.eikonal, loss.minimal_surface" in capsys.readouterr().err
    train.main([*words, "loss=density", "model.generator.plane_branches=single"])
    assert load_generator(tmp_path / "run" / "checkpoint").config.geometry == "density"
