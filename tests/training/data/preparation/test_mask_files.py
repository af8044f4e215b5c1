"""Masks as others save them: which are read, and the one line for each that is not."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, get_label_set, save_label_map
from training.data.preparation.mask_files import read_mask_file, read_part

PALETTE = np.array(CELEBAMASK_HQ.palette, dtype=np.uint8)


@pytest.fixture
def label_map() -> np.ndarray:
    return np.arange(24, dtype=np.uint8).reshape(4, 6) % 19


def _read(path):
    return read_mask_file(path, CELEBAMASK_HQ)


def test_palette_and_grey_ids_are_read(tmp_path, label_map):
    save_label_map(tmp_path / "palette.png", label_map, CELEBAMASK_HQ)
    Image.fromarray(label_map).save(tmp_path / "grey.png")
    for name in ("palette.png", "grey.png"):
        assert (_read(tmp_path / name) == label_map).all()


def test_colours_of_the_palette_become_ids(tmp_path, label_map):
    Image.fromarray(PALETTE[label_map]).save(tmp_path / "rgb.png")
    opaque = np.full((*label_map.shape, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([PALETTE[label_map], opaque], -1)).save(tmp_path / "rgba.png")
    for name in ("rgb.png", "rgba.png"):
        result = _read(tmp_path / name)
        assert (result == label_map).all() and result.dtype == np.uint8


def test_grey_ids_saved_as_rgb_are_ids(tmp_path, label_map):
    Image.fromarray(np.repeat(label_map[..., None], 3, axis=2)).save(tmp_path / "m.png")
    assert (_read(tmp_path / "m.png") == label_map).all()


def test_interlaced_files_are_read(tmp_path):
    # A 1x1 interlaced grey PNG of value 7, written by hand: Pillow writes none.
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\7")) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert _read(tmp_path / "m.png").tolist() == [[7]]


def test_unknown_colours_are_counted(tmp_path, label_map):
    pixels = PALETTE[label_map]
    pixels[0, :3] = (1, 2, 3)
    pixels[1, 0] = (9, 9, 8)
    Image.fromarray(pixels).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"2 colour\(s\).*often \(1, 2, 3\) at 3 of 24 pixels"):
        _read(tmp_path / "m.png")


def test_unknown_ids_are_named(tmp_path):
    Image.fromarray(np.array([[0, 19, 200]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m.png holds unknown ids \[19, 200\]; .* allows 0..18"):
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


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_unreadable_files_are_refused(tmp_path, content, label_map):
    path = tmp_path / "m.png"
    if content is None:
        big = np.random.default_rng(0).integers(0, 19, (64, 64), dtype=np.uint8)
        save_label_map(path, big, CELEBAMASK_HQ)
        content = path.read_bytes()[:-600]
    path.write_bytes(content)
    with pytest.raises(UserError, match="m.png is not a readable image"):
        _read(path)


def test_indices_that_only_number_colours_are_refused(tmp_path):
    """Programs that reduce RGB to a palette number the colours as they like."""
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([*CELEBAMASK_HQ.palette[1], *CELEBAMASK_HQ.palette[0]])
    image.save(tmp_path / "m.png")
    with pytest.raises(UserError, match="index 0 is background, but has the colour of skin"):
        _read(tmp_path / "m.png")


def test_a_foreign_palette_says_nothing_about_ids(tmp_path, label_map):
    image = Image.fromarray(label_map, mode="P")
    image.putpalette([v for i in range(256) for v in (i, 255 - i, 7)])
    image.save(tmp_path / "m.png")
    assert (_read(tmp_path / "m.png") == label_map).all()
    save_label_map(tmp_path / "other.png", label_map[:1], get_label_set("sofgan"))
    assert (read_mask_file(tmp_path / "other.png", get_label_set("sofgan")) == label_map[:1]).all()


def test_cat_masks_in_colours_are_read(tmp_path):
    ids = np.arange(6, dtype=np.uint8)[None]
    Image.fromarray(np.array(CATMASK_HQ.palette, np.uint8)[ids]).save(tmp_path / "cat.png")
    assert (read_mask_file(tmp_path / "cat.png", CATMASK_HQ) == ids).all()


def test_parts_are_white_in_grey_and_rgb(tmp_path):
    part = np.array([[0, 255], [255, 0]], np.uint8)
    Image.fromarray(part).save(tmp_path / "grey.png")
    Image.fromarray(np.repeat(part[..., None], 3, axis=2)).save(tmp_path / "rgb.png")
    for name in ("grey.png", "rgb.png"):
        assert (read_part(tmp_path / name) == (part > 0)).all()
