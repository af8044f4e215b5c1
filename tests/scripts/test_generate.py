"""The generation script: its files, its progress, and one line for each mistake."""

import dataclasses
import json

import pytest
import yaml

from mate3d.checkpoint import save_generator
from mate3d.generation.options import GenerationOptions
from scripts import generate
from scripts._compose import read_options


@pytest.fixture
def checkpoint(tiny_generator, tmp_path):
    save_generator(tmp_path / "checkpoint", tiny_generator, card="# Tiny cat")
    return tmp_path / "checkpoint"


def run_generate(checkpoint, tmp_path, *words: str):
    output = tmp_path / "out"
    generate.main(["debug=tiny", f"generator={checkpoint}", f"output={output}", *words])
    return output


def test_stills_sheet_and_metadata_are_written(checkpoint, tmp_path, capsys):
    words = ["seeds=0,3-4", "views.path=list", "views.angles_degrees=[[-20,0],[0,10.5]]"]
    output = run_generate(checkpoint, tmp_path, *words, "pictures=[image,segmentation]")
    document = json.loads((output / "metadata.json").read_text())
    names = [entry["file"] for entry in document["files"]]
    assert len(names) == 3 * 2 * 2 + 2 and all((output / name).is_file() for name in names)
    assert "seed0003_yaw+0_pitch+10.5_segmentation.png" in names
    assert document["generator"]["source"] == str(checkpoint)
    assert document["generator"]["card_sha256"]
    assert yaml.safe_load((output / "config.yaml").read_text())["seeds"] == "0,3-4"
    assert f"wrote {len(names) + 1} files in {output}" in capsys.readouterr().out


def test_options_of_the_script_have_the_defaults_of_the_library():
    options, defaults = read_options("generate", ["output=out"]), GenerationOptions()
    for field in dataclasses.fields(defaults):
        assert getattr(options, field.name) == getattr(defaults, field.name)


def test_orbit_interpolation_and_mix_write_their_files(checkpoint, tmp_path):
    output = run_generate(checkpoint, tmp_path, "views.path=orbit", "video.formats=mp4,gif")
    assert {path.suffix for path in output.glob("seed0001_orbit.*")} == {".mp4", ".gif"}
    output = run_generate(checkpoint, tmp_path, "views.path=figure_eight", "interpolate=true")
    assert (output / "interpolation_figure_eight.mp4").stat().st_size > 0
    output = run_generate(checkpoint, tmp_path, "mix.shape_seeds=1", "mix.texture_seeds=2,3")
    assert (output / "shape0001_texture0003_yaw+0_pitch+0.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generator={tmp}/none"], "no checkpoint at {tmp}/none"),
        (["seeds=two"], "seeds=two; cannot read 'two'"),
        (["seeds=[]"], "seeds=[]; cannot read ''"),
        (["views.path=list"], "path=list needs [yaw,pitch] pairs"),
        (["views.path=grid", "views.yaws_degrees=[]"], "views.yaws_degrees=[]; use a list"),
        (["views.path=orbit", "views.num_frames=1"], "views.num_frames=1; use an integer"),
        (["views=null"], "views=null"),
        (["pictures=photo"], "pictures=[photo]"),
        (["truncation_psi=3"], "truncation_psi=3.0; use a number from 0 to 2"),
        (["video.formats=mp5"], "video.formats=[mp5]"),
        (["dtype=float16"], "unknown option 'dtype'"),
        (["mix.shape_seeds=1"], "mix needs both"),
        (["mix.shape_seeds=a", "mix.texture_seeds=1"], "mix.shape_seeds=a; cannot read 'a'"),
        (["precision=float16"], "precision=float16; use one of: fp32, bf16, fp16"),
        (["device=tpu"], "device=tpu; use one of: auto, cpu, cuda"),
        (["seed=3"], "unknown option 'seed'; did you mean seeds"),
        (["views.radius=0.1"], "views.radius=0.1 is inside the volume"),
    ],
)
def test_mistakes_are_named_in_one_line(checkpoint, tmp_path, fail, words, message):
    words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    defaults = ["debug=tiny", f"generator={checkpoint}", f"output={tmp_path / 'out'}"]
    assert message.replace("{tmp}", str(tmp_path)) in fail(generate.main, *defaults, *words)
    assert not list((tmp_path / "out").glob("seed*"))
