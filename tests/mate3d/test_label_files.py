"""Masks as programs save them: read exactly, or refused in one line."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import maximum_filter

from mate3d.errors import UserError
from mate3d.label_borders import find_boundaries
from mate3d.label_files import load_label_map
from mate3d.labels import (
    CATMASK_HQ,
    CELEBAMASK_HQ,
    LabelSet,
    get_label_set,
    label_set_names,
    save_label_map,
)

HAIR, LOWER_LIP = (CELEBAMASK_HQ.class_id(name) for name in ("hair", "l_lip"))
FACE_SETS = [name for name in label_set_names() if name not in ("catmask_hq", "unlabelled")]


def draw_head(side: int = 64) -> np.ndarray:
    """Draw a round head with a class of each id of the cats."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    head = np.zeros((side, side), dtype=np.uint8)
    parts = [(2, -0.25, -0.25, 0.15), (2, 0.25, -0.25, 0.15), (1, 0, 0.05, 0.35)]
    parts += [(3, -0.15, 0, 0.07), (3, 0.15, 0, 0.07), (5, 0, 0.13, 0.05), (4, 0, 0.27, 0.06)]
    for class_id, right, down, radius in parts:
        head[np.hypot(x - right, y - down) < radius] = class_id
    return head


HEAD = draw_head()


def paint(label_map: np.ndarray, label_set: LabelSet = CATMASK_HQ) -> Image.Image:
    return Image.fromarray(np.array(label_set.palette, dtype=np.uint8)[label_map])


def index(label_map: np.ndarray, colors: np.ndarray, **kwargs: object) -> Image.Image:
    image = Image.fromarray(label_map.astype(np.uint8), mode="P")
    image.putpalette(np.asarray(colors, dtype=np.uint8).ravel().tolist())
    image.info.update(kwargs)
    return image


def read(image: Image.Image, format: str = "PNG", label_set: LabelSet = CATMASK_HQ, **kwargs):
    file = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {}
    image.save(file, format=format, **options)
    return load_label_map(file, label_set, **kwargs)


def renumber(label_map: np.ndarray) -> Image.Image:
    """Return the mask with a palette that is sorted by colour, as optimisers make it."""
    pixels = np.asarray(paint(label_map))
    colors, places = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    return index(places.reshape(label_map.shape), colors)


RAMP = np.repeat(np.arange(256)[:, None], 3, axis=1)
STRANGE = np.stack([RAMP[:, 0], 255 - RAMP[:, 0], np.full(256, 7)], axis=1)
WITHOUT_SKIN = np.where(HEAD == 1, 0, HEAD)

READ: dict[str, Callable[[], Image.Image]] = {
    "RGB": lambda: paint(HEAD),
    "RGBA": lambda: paint(HEAD).convert("RGBA"),
    "renumbered": lambda: renumber(HEAD),
    "quantised": lambda: paint(HEAD).quantize(6),
    "quantised to more": lambda: paint(HEAD).quantize(256),
    "octree": lambda: paint(HEAD).quantize(16, method=Image.Quantize.FASTOCTREE),
    "palette of more classes": lambda: index(HEAD, CELEBAMASK_HQ.palette),
    "grey": lambda: Image.fromarray(HEAD),
    "grey and alpha": lambda: Image.fromarray(HEAD).convert("LA"),
    "grey in RGB": lambda: Image.fromarray(HEAD).convert("RGB"),
    "grey palette": lambda: index(HEAD, RAMP),
    "quantised grey": lambda: Image.fromarray(HEAD).quantize(6),
    "bright grey palette": lambda: index(HEAD, RAMP[:6] * 40),
    "16 bits": lambda: Image.fromarray(HEAD.astype(np.uint16)),
    "16 bits from 8": lambda: Image.fromarray(HEAD.astype(np.uint16) * 257),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("painted", [False, True])
def test_colours_and_ids_are_read_however_they_are_stored(name, painted):
    result = read(READ[name](), painted=painted)
    assert result.dtype == np.uint8 and np.array_equal(result, HEAD)


@pytest.mark.parametrize("format", ["BMP", "WEBP", "TIFF", "GIF"])
@pytest.mark.parametrize("make", [paint, Image.fromarray, renumber])
def test_other_lossless_formats_are_read(format, make):
    assert np.array_equal(read(make(HEAD), format, painted=True), HEAD)


@pytest.mark.parametrize("name", FACE_SETS)
def test_our_own_files_are_read_in_every_label_set(name, tmp_path):
    label_set = get_label_set(name)
    label_map = np.arange(64, dtype=np.uint8).reshape(8, 8) % label_set.num_classes
    save_label_map(tmp_path / "mask.png", label_map, label_set)
    assert np.array_equal(load_label_map(tmp_path / "mask.png", label_set), label_map)


def test_a_classes_colour_counts_wherever_the_palette_has_it():
    """Also where some classes are missing, so that the others have lower indices."""
    used = np.unique(WITHOUT_SKIN)
    shifted = index(
        np.searchsorted(used, WITHOUT_SKIN), np.array(CATMASK_HQ.palette, np.uint8)[used]
    )
    assert np.array_equal(read(shifted), WITHOUT_SKIN)
    assert np.array_equal(read(Image.fromarray(WITHOUT_SKIN).quantize(5)), WITHOUT_SKIN)


def test_indices_count_where_no_colour_is_a_classes_but_not_for_a_painted_mask():
    assert np.array_equal(read(index(HEAD, STRANGE)), HEAD)
    with pytest.raises(UserError, match="palette without the label set's colours"):
        read(index(HEAD, STRANGE), painted=True)


def test_transparent_pixels_are_background_and_are_counted():
    lines = []
    erased = np.where(HEAD == 2, 0, HEAD)
    clear = Image.fromarray(np.where(HEAD == 2, 0, 255).astype(np.uint8))
    colors = paint(HEAD).convert("RGBA")
    colors.putalpha(clear)
    hidden = np.array(colors)
    hidden[HEAD == 2] = (1, 2, 3, 0)
    grey = Image.merge("LA", [Image.fromarray(HEAD), clear])
    for image in (colors, Image.fromarray(hidden), grey):
        assert np.array_equal(read(image, say=lines.append), erased)
    palette = index(HEAD, CATMASK_HQ.palette, transparency=2)
    assert np.array_equal(read(palette, say=lines.append), erased)
    count = f"{(HEAD == 2).sum()} of 4096 pixels are transparent"
    assert len(lines) == 4 and all(count in line for line in lines)


def soften(image: Image.Image, factor: int = 2) -> Image.Image:
    big = image.resize([factor * side for side in image.size], Image.Resampling.BICUBIC)
    return big.resize(image.size, Image.Resampling.BICUBIC)


def save_as_jpeg(image: Image.Image, quality: int = 92) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality)
    return Image.open(file)


def half_clear() -> Image.Image:
    image = paint(HEAD).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(HEAD == 2, 100, 255).astype(np.uint8)))
    return image


def with_ids(*ids: int) -> Image.Image:
    label_map = HEAD.copy()
    label_map[0, : len(ids)] = ids
    return Image.fromarray(label_map)


def add_color(color: tuple[int, int, int]) -> Image.Image:
    image = np.array(paint(HEAD))
    image[20:40, 20:40] = color
    return Image.fromarray(image)


REFUSED: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "brightened": (lambda: Image.fromarray(HEAD * 40), "ids times 40; divide by 40"),
    "brightened palette": (lambda: Image.fromarray(WITHOUT_SKIN * 40).quantize(5), "times 40"),
    "unknown ids": (lambda: with_ids(6, 255), r"unknown ids \[6, 255\] .*allows 0..5"),
    "unknown wide ids": (lambda: Image.fromarray(HEAD.astype(np.uint16) + 500), "ids .*500"),
    "black and white": (lambda: Image.fromarray((HEAD > 0) * np.uint8(255)), r"\[255\]"),
    "one bit": (lambda: Image.fromarray(HEAD > 0), r"unknown ids \[255\]"),
    "smooth colours": (lambda: soften(paint(HEAD)), "hard edges.*mask_snap=true"),
    "smooth colours with a palette": (lambda: soften(paint(HEAD)).quantize(64), "mask_snap=true"),
    "smooth ids": (lambda: soften(Image.fromarray(HEAD)), "ids between those of their neighbours"),
    "once JPEG": (lambda: save_as_jpeg(paint(HEAD)), "hard edges.*mask_snap=true"),
    "another colour": (lambda: add_color((90, 90, 255)), r"1 colour\(s\).*\(90, 90, 255\) in 400"),
    "half-transparent": (half_clear, "half-transparent .*hard edges"),
    "a palette of unknown colours too": (
        lambda: index(HEAD, [*CATMASK_HQ.palette[:4], (9, 200, 9), (9, 9, 200)]),
        r"2 colour\(s\) not in catmask_hq",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_certain_is_refused_in_one_line_that_helps(name):
    make, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as info:
        read(make(), painted=True)
    assert "\n" not in str(info.value) and "docs/masks.md" in str(info.value)


@pytest.mark.parametrize("make", [save_as_jpeg, soften])
@pytest.mark.parametrize("num_colors", [6, 16, 256])
def test_no_palette_of_mixed_colours_is_read(make, num_colors):
    for method in (Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE):
        with pytest.raises(UserError):
            read(make(paint(HEAD)).quantize(num_colors, method=method), painted=True)


def test_ids_in_a_format_that_changes_them_are_refused(tmp_path):
    grey = Image.fromarray(HEAD)
    grey.save(tmp_path / "mask.jpg")
    grey.save(tmp_path / "mask.webp", quality=90)
    for name in ("mask.jpg", "mask.webp"):
        with pytest.raises(UserError, match=f"{name} holds grey values, which .* changes"):
            load_label_map(tmp_path / name, CATMASK_HQ)


def test_files_that_are_no_images_are_refused(tmp_path):
    path = tmp_path / "m.png"
    with pytest.raises(UserError, match=r"not found: .*m\.png"):
        load_label_map(path, CATMASK_HQ)
    save_label_map(path, np.random.default_rng(0).integers(0, 6, (64, 64)), CATMASK_HQ)
    for content in (path.read_bytes()[:-600], b"no image"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"m\.png is not a readable image"):
            load_label_map(path, CATMASK_HQ)
    Image.new("CMYK", (4, 4)).save(tmp_path / "m.tiff")
    with pytest.raises(UserError, match="has mode CMYK; use a PNG"):
        load_label_map(tmp_path / "m.tiff", CATMASK_HQ)


def test_numbers_of_one_set_in_the_colours_of_another_are_refused():
    """Masks in the order of BiSeNet are often coloured by number with CelebAMask-HQ's palette."""
    image = index(HEAD, CELEBAMASK_HQ.palette)
    with pytest.raises(UserError, match="has the palette of celebamask_hq"):
        read(image, label_set=get_label_set("face_parsing_bisenet"))


@pytest.mark.parametrize("label_set", [CATMASK_HQ, CELEBAMASK_HQ], ids=lambda each: each.name)
@pytest.mark.parametrize("soften_more", [soften, lambda image: soften(image, 3), save_as_jpeg])
def test_snapping_moves_borders_by_a_pixel_at_most_and_says_how_many(label_set, soften_more):
    lines: list[str] = []
    head = draw_head(128)
    image = soften_more(paint(head, label_set))
    result = read(image, label_set=label_set, painted=True, snap=True, say=lines.append)
    is_border = maximum_filter(find_boundaries(head), 3)
    assert np.array_equal(result[~is_border], head[~is_border])
    assert (result != head).mean() < 0.005
    assert len(lines) == 1 and "of 16384 pixels" in lines[0]


def test_an_edge_of_two_classes_never_becomes_a_third_that_looks_like_their_mixture():
    """Three quarters of hair and one of background are exactly the lower lip's colour."""
    hair, lip = (np.array(CELEBAMASK_HQ.palette[each]) for each in (HAIR, LOWER_LIP))
    assert (0.75 * hair == lip).all()
    label_map = np.zeros((32, 32), np.uint8)
    label_map[:, 16:] = HAIR
    label_map[8:12, 24:28] = LOWER_LIP
    image = np.array(paint(label_map, CELEBAMASK_HQ))
    image[:, 16] = lip
    lines = []
    options = {"label_set": CELEBAMASK_HQ, "painted": True, "snap": True, "say": lines.append}
    image[0, 17] = (1, 0, 199)
    assert np.array_equal(read(Image.fromarray(image), **options), label_map)
    assert "snapped 33 of 1024" in lines[0]


def test_thin_lines_survive_snapping():
    head = draw_head()
    head[40, 22:42] = CATMASK_HQ.class_id("mouth")
    image = np.array(paint(head))
    image[find_boundaries(HEAD) & (HEAD == 2)] += 1
    assert np.array_equal(read(Image.fromarray(image), painted=True, snap=True), head)


def test_snapping_refuses_what_is_no_edge():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for image in (add_color((90, 90, 255)), noise):
        with pytest.raises(UserError, match="not in catmask_hq"):
            read(image.convert("RGB"), painted=True, snap=True)
    clear = read(half_clear(), painted=True, snap=True)
    assert np.array_equal(clear, np.where(HEAD == 2, 0, HEAD))
