"""Tests of opening photos."""

import numpy as np
import pytest
from PIL import Image

from mate3d.errors import UserError
from mate3d.photo.open_photo import open_photo, to_rgb
from tests.png_files import make_grey_png


@pytest.fixture
def gradient() -> np.ndarray:  # [8, 12] uint8
    return np.arange(96, dtype=np.uint8).reshape(8, 12) * 2


def test_exif_orientation_is_applied(tmp_path, gradient):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient).save(tmp_path / "a.png", exif=exif)
    shown = np.asarray(open_photo(tmp_path / "a.png"))[..., 0]
    np.testing.assert_array_equal(shown, np.rot90(gradient, -1))


def test_every_mode_becomes_rgb(tmp_path, gradient):
    grey = Image.fromarray(gradient)
    wide = Image.fromarray(gradient.astype(np.uint16) * 257)
    pictures = {"l.png": grey, "p.png": grey.convert("P"), "wide.png": wide, "1.tif": wide}
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
        photo = open_photo(tmp_path / name)
        assert photo.mode == "RGB"
        np.testing.assert_allclose(np.asarray(photo)[..., 1], gradient, atol=1, err_msg=name)
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red.save(tmp_path / "cmyk.jpg")
    np.testing.assert_allclose(np.asarray(open_photo(tmp_path / "cmyk.jpg"))[0, 0], (255, 0, 0), 9)


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.uint16, 257), (np.int32, 257), (np.int32, 1), (np.float32, 1)]
)
def test_wide_grey_is_neither_clipped_nor_darkened(gradient, dtype, scale):
    image = Image.fromarray(gradient.astype(dtype) * scale)
    for channel in np.moveaxis(np.asarray(to_rgb(image)), -1, 0):
        np.testing.assert_array_equal(channel, gradient)


def test_transparent_parts_become_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 255, 0)).save(tmp_path / "a.png")
    assert open_photo(tmp_path / "a.png").getpixel((1, 1)) == (255, 255, 255)
    Image.new("LA", (4, 4), (10, 255)).save(tmp_path / "b.png")
    assert open_photo(tmp_path / "b.png").getpixel((1, 1)) == (10, 10, 10)
    one_color = Image.new("RGB", (4, 4), (7, 8, 9))
    one_color.save(tmp_path / "c.png", transparency=(7, 8, 9))
    assert open_photo(tmp_path / "c.png").getpixel((1, 1)) == (255, 255, 255)


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(UserError, match="none.jpg"):
        open_photo(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match="text.jpg"):
        open_photo(tmp_path / "text.jpg")
    (tmp_path / "bomb.png").write_bytes(make_grey_png(60000, 60000, b"0"))
    with pytest.raises(UserError, match="bomb.png is damaged or truncated: "):
        open_photo(tmp_path / "bomb.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for name in ("cut.png", "cut.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=name):
            open_photo(tmp_path / name)
