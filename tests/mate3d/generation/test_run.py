"""Whole runs: the same bytes each time, planes made once a head, complete files only."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from mate3d.generation.options import GenerationOptions
from mate3d.generation.rendering import HeadMaker, Precision
from mate3d.generation.run import GenerationRun
from mate3d.generator import Generator
from mate3d.label_files import load_label_map
from mate3d.labels import CATMASK_HQ
from mate3d.options import config_from_dict
from tests.eg3d import make_generator


def _options(values: dict[str, Any]) -> GenerationOptions:
    return config_from_dict(GenerationOptions, values)


def _generate(generator: Generator, folder: Path, **values) -> dict[str, bytes]:
    """Run, and return the contents of what was written by file name."""
    paths = GenerationRun(generator, _options(values)).write(folder, source="here")
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths)
    return {path.name: path.read_bytes() for path in paths}


STILLS = {
    "seeds": "1-2",
    "pictures": ("all",),
    "with_depth_values": True,
    "views": {"path": "grid", "yaws_degrees": (-20, 20), "pitches_degrees": (0, 10)},
    "mesh": {"enabled": True, "resolution": 16, "formats": ("ply", "glb"), "per_label": False},
}
VIDEOS = {
    "seeds": "1-2",
    "pictures": ("image", "segmentation"),
    "views": {"path": "orbit", "num_frames": 3},
    "video": {"formats": ("mp4",)},
}
BOTH_FORMATS = {"video": {"formats": ("mp4", "gif")}, "seeds": "1", "pictures": ("image",)}


def _with_surface(generator: Generator) -> Generator:
    """Move the global distance so that a random head has a surface in its box."""
    generator.decoder.sdf_head[2].bias.zero_()
    return generator


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("values", [STILLS, VIDEOS | BOTH_FORMATS, VIDEOS | {"interpolate": True}])
def test_repeated_run_writes_the_same_bytes(tiny_generator, tmp_path, values, precision):
    generator = _with_surface(tiny_generator)
    first = _generate(generator, tmp_path / "first", precision=precision, **values)
    torch.manual_seed(99)
    second = _generate(generator, tmp_path / "second", precision=precision, **values)
    assert first == second and len(first) >= 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_picture_does_not_depend_on_other_seeds_views_and_kinds(
    tiny_generator, tmp_path, precision
):
    many = _generate(
        _with_surface(tiny_generator), tmp_path / "many", precision=precision, **STILLS
    )
    views = {"path": "list", "angles_degrees": [[20, 10]]}
    alone = _generate(tiny_generator, tmp_path / "one", seeds="2", views=views, precision=precision)
    name = "seed0002_yaw+20_pitch+10.png"
    assert many[name] == alone[name]


def test_stills_are_what_their_names_say(tiny_generator, tmp_path):
    files = _generate(_with_surface(tiny_generator), tmp_path, **STILLS)
    stem = "seed0001_yaw-20_pitch+10"
    maker = HeadMaker(tiny_generator, Precision(torch.device("cpu")), 0.7)
    camera = tiny_generator.config.camera_rig.make_camera(np.deg2rad(-20.0), np.deg2rad(10.0))
    with torch.no_grad():
        output = tiny_generator.synthesize(maker.style(1), camera, with_normals=True)
    ids = load_label_map(tmp_path / f"{stem}_segmentation.png", CATMASK_HQ)
    assert np.array_equal(ids, output.segmentation[0].argmax(0).numpy())
    depth = np.load(tmp_path / f"{stem}_depth.npy")
    np.testing.assert_allclose(depth, output.depth[0, 0].numpy(), atol=1e-6)
    image = np.array(Image.open(tmp_path / f"{stem}.png")).astype(float)
    expected = (output.image[0].permute(1, 2, 0).numpy() * 127.5 + 128).clip(0, 255)
    assert image.shape == (16, 16, 3) and np.abs(image - np.floor(expected)).max() <= 1
    assert Image.open(tmp_path / f"{stem}_normals.png").size == (16, 16)
    opacity = Image.open(tmp_path / f"{stem}_opacity.png")
    assert opacity.mode == "L"
    expected = output.opacity[0, 0].numpy().repeat(2, 0).repeat(2, 1) * 255
    assert np.abs(np.array(opacity) - expected).max() <= 1
    # Rows are seeds, columns views.
    assert Image.open(tmp_path / "sheet_image.png").size == (4 * 16, 2 * 16)
    assert {"seed0001.ply", "seed0002.glb"} <= set(files)


def test_every_view_is_announced_and_counted(tiny_generator, tmp_path):
    for values, expected in (
        (STILLS | {"mesh": {}}, 8),
        (VIDEOS, 6),
        ({"seeds": "0-2", "interpolate": True, "views": {"num_frames": 2}}, 6),
        ({"seeds": "0", "mix": {"shape_seeds": "1-2", "texture_seeds": "3-5"}}, 6),
    ):
        views = []
        run = GenerationRun(tiny_generator, _options(values))
        run.write(tmp_path / str(len(views)), on_view=lambda views=views: views.append(1))
        assert len(views) == run.num_views == expected


def test_interpolation_shows_each_seed_as_its_still_does(tiny_generator, tmp_path):
    values = {"seeds": "0,3", "video": {"formats": ("gif",), "fps": 10}, "sheet_tiles": 0}
    _generate(
        tiny_generator, tmp_path / "video", interpolate=True, views={"num_frames": 4}, **values
    )
    _generate(tiny_generator, tmp_path / "stills", seeds="0,3")
    with Image.open(tmp_path / "video" / "interpolation_front.gif") as gif:
        assert gif.n_frames == 8 and gif.size == (256, 256)
        for frame, seed in ((0, 0), (4, 3)):
            gif.seek(frame)
            shown = np.array(gif.convert("RGB").resize((16, 16), Image.Resampling.BOX)).astype(int)
            still = np.array(Image.open(tmp_path / "stills" / f"seed{seed:04d}_yaw+0_pitch+0.png"))
            assert np.abs(shown - still).mean() < 6


def test_mix_is_a_table_of_shapes_and_textures(tiny_generator, tmp_path):
    values = {"seeds": "0", "mix": {"shape_seeds": "1-2", "texture_seeds": "2-4"}}
    files = _generate(tiny_generator, tmp_path, **values)
    assert "shape0001_texture0004_yaw+0_pitch+0.png" in files
    sheet = Image.open(tmp_path / "sheet_image.png")
    assert sheet.size == (3 * 16, 2 * 16)
    unmixed = _generate(tiny_generator, tmp_path / "own", seeds="2")
    assert files["shape0002_texture0002_yaw+0_pitch+0.png"] == unmixed["seed0002_yaw+0_pitch+0.png"]


def test_metadata_lists_cameras_and_files_and_nothing_personal(tiny_generator, tmp_path):
    tiny_generator.card = "# A cat"
    files = _generate(tiny_generator, tmp_path, **STILLS | {"mesh": {}})
    document = json.loads(files["metadata.json"])
    assert {entry["file"] for entry in document["files"]} == set(files) - {"metadata.json"}
    entry = {"kind": "depth", "head": "seed0002", "view": "yaw+20_pitch+0"}
    assert {"file": "seed0002_yaw+20_pitch+0_depth.png"} | entry in document["files"]
    view = document["views"][1]
    camera = tiny_generator.config.camera_rig.make_camera(np.deg2rad(20.0))[0]
    assert view["name"] == "yaw+20_pitch+0" and view["camera"] == camera.tolist()
    assert document["options"]["seeds"] == "1-2"
    assert document["generator"]["source"] == "here"
    assert len(document["generator"]["card_sha256"]) == 64


@pytest.mark.parametrize("values", [STILLS | {"mesh": {}}, VIDEOS])
def test_interrupted_run_leaves_complete_files_and_no_metadata(tiny_generator, tmp_path, values):
    whole = _generate(tiny_generator, tmp_path / "whole", **values)
    _generate(tiny_generator, tmp_path / "cut", **values)
    for path in (tmp_path / "cut").glob("seed*"):
        path.write_bytes(b"old")
    run = GenerationRun(tiny_generator, _options(values))
    with pytest.raises(KeyboardInterrupt):
        run.write(tmp_path / "cut", on_view=Mock(side_effect=[None] * 3 + [KeyboardInterrupt]))
    left = {path.name: path.read_bytes() for path in (tmp_path / "cut").iterdir()}
    assert set(left) == set(whole) - {"metadata.json"}
    new = [name for name in left if name.startswith("seed") and left[name] != b"old"]
    assert new and all(left[name] == whole[name] for name in new)
    assert any(data == b"old" for data in left.values())


def test_generator_without_labels_makes_all_that_it_has(tmp_path):
    generator = make_generator()
    for precision in ("fp32", "bf16"):
        files = _generate(
            generator, tmp_path / precision, seeds="0", pictures=("all",), precision=precision
        )
        kinds = {entry["kind"] for entry in json.loads(files["metadata.json"])["files"]}
        assert kinds == {"image", "depth", "normals", "opacity"}
