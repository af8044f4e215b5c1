"""Presets of the real prior run with stand-ins from a hub; conditions have the right colours."""

import time
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from editing import loop
from editing.guidance.loading import load_controlnet_guidance
from editing.options import GuidanceOptions
from mate3d.errors import UserError
from mate3d.label_colors import read_palette
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ
from scripts import edit
from scripts._compose import read_options
from scripts._words import script_groups
from tests.hub_server import HubServer, use_hub
from tests.mate3d.diffusion.original_format import DEMO

SMALL = ["debug=tiny", "device=cpu", "edit.distillation.denoised.num_denoising_steps=1"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with stand-ins of Stable Diffusion 1.5 and the authors' ControlNets."""
    paths = [path for path in DEMO.glob("*/*") if "controlnet" not in path.parts]
    files = {path.relative_to(DEMO).as_posix(): path.read_bytes() for path in paths}
    files["model_index.json"] = (DEMO / "model_index.json").read_bytes()
    control = {path.name: path.read_bytes() for path in (DEMO / "controlnet").iterdir()}
    folders = ("face_controlnet/controlnet_10000", "cat_controlnet/controlnet")
    with HubServer().running() as server:
        use_hub(server, tmp_path / "cache", monkeypatch)
        server.add("stable-diffusion-v1-5/stable-diffusion-v1-5", files)
        everything = {f"{folder}/{name}": control[name] for folder in folders for name in control}
        server.add("Ellis/MaTe3D", everything)
        yield server


def words(generator_folder: Path, *more: str) -> list[str]:
    return [*SMALL, f"generator={generator_folder}", "prompt=a cat", *more]


@pytest.mark.parametrize("preset", ["mate3d_cat", "mate3d_face"])
def test_presets_go_with_every_edit_and_words_win(preset):
    given = [f"guidance={preset}", "output=x"]
    for choice in script_groups("edit")["edit"]:
        options = read_options("edit", [*given, f"edit={choice}"])
        assert (
            options.guidance.controlnet_subfolder == preset.replace("mate3d_", "") + "_controlnet"
        )
        assert bool(options.edit.weights.distillation) == (choice != "mask_only")
    own = ["edit.num_steps=7", "negative_prompt=", "edit.distillation.guidance_scale=5"]
    options = read_options("edit", [*own, *given])
    assert (options.edit.num_steps, options.negative_prompt) == (7, "")
    assert options.edit.distillation.guidance_scale == 5


def test_a_preset_edits_with_the_networks_of_the_hub(hub, generator_folder, tmp_path, capsys):
    more = ["guidance=mate3d_cat", f"output={tmp_path / 'out'}"]
    edit.main(words(generator_folder, *more))
    assert (tmp_path / "out" / "edited.png").stat().st_size > 0
    asked = {request.path for request in hub.requests}
    assert any("cat_controlnet/controlnet/" in path for path in asked)
    assert not any("face_controlnet" in path for path in asked)
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert config["negative_prompt"] and config["guidance"]["precision"] == "auto"
    shown = "".join(capsys.readouterr())
    assert "Keyword arguments" not in shown


def test_a_preset_without_weights_and_network_tells_the_command(
    generator_folder, tmp_path, monkeypatch, fail
):
    hub = HubServer()
    hub.server_close()
    use_hub(hub, tmp_path / "cache", monkeypatch)
    started = time.monotonic()
    more = ["guidance=mate3d_face", f"output={tmp_path / 'out'}"]
    line = fail(edit.main, *words(generator_folder, *more))
    assert time.monotonic() - started < 10
    assert "guidance.prior=stable-diffusion-v1-5/stable-diffusion-v1-5: " in line
    assert "python -m scripts.download_weights what=" in line


def test_colours_come_from_a_label_set_or_a_file(tmp_path):
    read = partial(read_palette, label_set=CATMASK_HQ, option="palette")
    assert read(None) == CATMASK_HQ.palette
    assert list(read("catmask_hq")) == list(CATMASK_HQ.palette)
    path = tmp_path / "colors.yaml"
    # Labels that the generator does not have may be there, and two may look alike.
    path.write_text("".join(f"{name}: [1, 2, 3]\n" for name in (*CATMASK_HQ.class_names, "hat")))
    assert read(str(path)) == [(1, 2, 3)] * CATMASK_HQ.num_classes
    with pytest.raises(UserError, match="^palette=celebamask_hq has the colour None for ears"):
        read("celebamask_hq")
    for text in ("[1, 2]", "[1, 2, 256]", "[x, 2, 3]", "5"):
        path.write_text(f"background: {text}")
        with pytest.raises(UserError, match="colors.yaml has the colour .* for background"):
            read(str(path))
    for text in ("- 1", "{", ""):
        path.write_text(text)
        with pytest.raises(UserError, match="colors.yaml cannot be read: "):
            read(str(path))
    with pytest.raises(UserError, match="^palette=nowhere cannot be read.*catmask_hq"):
        read("nowhere")


def test_the_condition_of_an_edit_has_the_colours_of_the_palette(
    generator_folder, tmp_path, monkeypatch, fail
):
    seen = set()

    def note(label_map, palette):
        seen.update(palette)
        return torch.zeros(1, 3, *label_map.shape[-2:])

    path = tmp_path / "colors.yaml"
    colors = dict(zip(CATMASK_HQ.class_names, CELEBAMASK_HQ.palette[5:], strict=False))
    path.write_text(yaml.safe_dump({name: list(color) for name, color in colors.items()}))
    monkeypatch.setattr(loop, "colorize_label_map", note)
    more = [f"guidance.palette={path}", f"output={tmp_path / 'out'}"]
    edit.main(words(generator_folder, *more))
    assert seen == set(colors.values())
    line = fail(edit.main, *words(generator_folder, "guidance.palette=celebamask_hq", *more[1:]))
    assert "guidance.palette=celebamask_hq has the colour None for ears" in line


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.bfloat16), ("fp32", torch.float32)]
)
def test_the_precision_fits_the_device(precision, dtype):
    guidance = load_controlnet_guidance(GuidanceOptions(precision=precision))
    assert {guidance.unet.dtype, guidance.vae.dtype, guidance.text_encoder.dtype} == {dtype}
