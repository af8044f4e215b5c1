"""Masks as others save them: which are read, and the one line for each that is not."""

import numpy as np
import pytest
from PIL import Image

from mate3d.errors import UserError
from mate3d.labels import CELEBAMASK_HQ, get_label_set, save_label_map
from training.data.preparation.mask_files import read_mask_file

PALETTE = np.array(CELEBAMASK_HQ.palette, dtype=np.uint8)


@pytest.fixture
def label_map() -> np.ndarray:
    return np.arange(24, dtype=np.uint8).reshape(4, 6) % 19


def _read(path):
    return read_mask_file(path, CELEBAMASK_HQ)


def test_ids_and_colours_of_the_palette_are_read(tmp_path, label_map):
    save_label_map(tmp_path / "palette.png", label_map, CELEBAMASK_HQ)
    grey, rgb = Image.fromarray(label_map), Image.fromarray(PALETTE[label_map])
    images = {"grey": grey, "rgb": rgb, "rgba": rgb.convert("RGBA"), "both": grey.convert("RGB")}
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
    for name in ("palette", *images):
        result = _read(tmp_path / f"{name}.png")
        assert (result == label_map).all() and result.dtype == np.uint8, name


def test_unknown_colours_are_counted(tmp_path, label_map):
    pixels = PALETTE[label_map]
    pixels[0, :3] = (1, 2, 3)
    pixels[1, 0] = (9, 9, 8)
    Image.fromarray(pixels).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"2 colour\(s\).*\(1, 2, 3\) .*3 of 24 pixels"):
        _read(tmp_path / "m.png")


def test_unknown_ids_are_named(tmp_path):
    Image.fromarray(np.array([[0, 19, 200]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m.png .*\[19, 200\]; .* allows 0..18"):
        _read(tmp_path / "m.png")


@pytest.mark.parametrize(
    ("mode", "dtype"), [("I;16", np.uint16), ("1", bool), ("LA", np.uint8), ("F", np.float32)]
)
def test_other_modes_are_refused(tmp_path, mode, dtype):
    shape = (2, 2, 2) if mode == "LA" else (2, 2)
    suffix = "tiff" if mode == "F" else "png"
    Image.fromarray(np.zeros(shape, dtype)).save(tmp_path / f"m.{suffix}")
    with pytest.raises(UserError, match=f"has mode {mode}; use an 8-bit grey, palette or RGB PNG"):
        _read(tmp_path / f"m.{suffix}")


def test_unreadable_files_are_refused(tmp_path):
    path = tmp_path / "m.png"
    big = np.random.default_rng(0).integers(0, 19, (64, 64), dtype=np.uint8)
    save_label_map(path, big, CELEBAMASK_HQ)
    for content in (path.read_bytes()[:-600], b"no image"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="m.png is not a readable image"):
            _read(path)


def test_indices_that_only_number_colours_are_refused(tmp_path):
    """Programs that reduce RGB to a palette number the colours as they like."""
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([*CELEBAMASK_HQ.palette[1], *CELEBAMASK_HQ.palette[0]])
    image.save(tmp_path / "m.png")
    with pytest.raises(UserError, match="index 0 is background.* the colour of skin"):
        _read(tmp_path / "m.png")


def test_a_foreign_palette_says_nothing_about_ids(tmp_path, label_map):
    image = Image.fromarray(label_map, mode="P")
    image.putpalette([v for i in range(256) for v in (i, 255 - i, 7)])
    image.save(tmp_path / "m.png")
    assert (_read(tmp_path / "m.png") == label_map).all()
    save_label_map(tmp_path / "other.png", label_map[:1], get_label_set("sofgan"))
    assert (read_mask_file(tmp_path / "other.png", get_label_set("sofgan")) == label_map[:1]).all()
