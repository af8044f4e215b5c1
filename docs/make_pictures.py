"""Make the pictures of data and augmentation for the documentation (a few minutes on a CPU).

    python -m docs.make_pictures

`docs/images/data_doctor.png` is a screenshot of the page of the check and is not made here.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mate3d.cameras import make_camera
from mate3d.label_conversion import find_conversion
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, LabelSet, colorize_label_map, get_label_set
from mate3d.outputs.visualize import colorize_normals, to_uint8
from mate3d.photo.alignment import eg3d_crop, ffhq_crop
from mate3d.photo.landmarks import five_landmarks
from mate3d.photo.mask_landmarks import landmarks_from_mask
from mate3d.procedural.portraits import (
    ProceduralPortraits,
    make_procedural_cat,
    make_procedural_person,
    render_portrait,
)
from torch_utils.batch_random import BatchRandom
from training.augmentation import Augmenter, AugmentSettings

FOLDER = Path(__file__).parent / "images"
TILE = 160
YAWS = (-0.7, -0.42, -0.14, 0.14, 0.42, 0.7)
PITCHES = (0.1, 0.3, -0.2, 0.2, -0.3, 0.1)
_TITLE_HEIGHT = 18


def make_sheet(portraits: ProceduralPortraits, shown: int, label_set: LabelSet) -> Image.Image:
    """Tile portraits, then one of them from six views with label maps and normals."""
    rows = list(_tiles(portraits.render.image).reshape(-1, 6, TILE, TILE, 3))
    camera = make_camera(torch.tensor(YAWS), torch.tensor(PITCHES))
    parameters = portraits.parameters[torch.full((6,), shown)]
    render = render_portrait(parameters, camera, TILE)
    rows += [
        _tiles(render.image),
        _tiles(colorize_label_map(render.label_map, label_set)),
        _tiles(colorize_normals(render.normals)),
    ]
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))


def make_label_sets(person: ProceduralPortraits, cat: ProceduralPortraits) -> Image.Image:
    """Show one person's mask in four label sets, and a cat's in one."""
    label_map = person.render.label_map[0].numpy().astype(np.uint8)
    tiles = [_tiles(person.render.image)[0]]
    titles = ["photo"]
    for name in ("celebamask_hq", "face_15", "face_8", "face_5"):
        label_set = get_label_set(name)
        converted = find_conversion(CELEBAMASK_HQ, label_set).apply(label_map)
        tiles.append(_tiles(colorize_label_map(torch.from_numpy(converted)[None], label_set))[0])
        titles.append(name)
    tiles += [
        _tiles(cat.render.image)[0],
        _tiles(colorize_label_map(cat.render.label_map, CATMASK_HQ))[0],
    ]
    return _titled(tiles, [*titles, "photo", "catmask_hq"], columns=7)


def make_cameras(person: ProceduralPortraits) -> Image.Image:
    """Show a head from a grid of cameras with their angles in degrees."""
    angles = [(yaw, pitch) for pitch in (15, 0, -15) for yaw in (-40, -20, 0, 20, 40)]
    yaw, pitch = torch.deg2rad(torch.tensor(angles, dtype=torch.float32)).T
    parameters = person.parameters[torch.zeros(len(angles), dtype=torch.long)]
    render = render_portrait(parameters, make_camera(yaw, pitch), TILE)
    titles = [f"yaw {yaw:+d}°, pitch {pitch:+d}°" for yaw, pitch in angles]
    return _titled(list(_tiles(render.image)), titles, columns=5)


def make_crops(person: ProceduralPortraits) -> Image.Image:
    """Show a wide photo of a tilted head and its crops."""
    camera = make_camera(0.3, 0.1, radius=4.2)
    render = render_portrait(person.parameters[:1], camera, 512, supersampling=2)
    background = tuple(int(255 * v) for v in person.parameters.background_color[0].tolist())
    square = Image.fromarray(to_uint8(render.image)[0])
    mask = Image.fromarray(render.label_map[0].numpy().astype(np.uint8))
    photo = Image.new("RGB", (768, 512), background)
    photo.paste(square.rotate(12, Image.Resampling.BICUBIC, fillcolor=background), (40, 0))
    label_map = Image.new("L", photo.size)
    label_map.paste(mask.rotate(12, Image.Resampling.NEAREST), (40, 0))
    five = five_landmarks(landmarks_from_mask(np.array(label_map), CELEBAMASK_HQ))
    draw = photo.copy()
    for x, y in five:
        ImageDraw.Draw(draw).ellipse((x - 5, y - 5, x + 5, y + 5), outline="black", fill="lime")
    size = (TILE, TILE)
    tiles = [
        np.array(draw.resize((TILE * 3 // 2, TILE), Image.Resampling.LANCZOS)),
        np.array(photo.crop((128, 0, 640, 512)).resize(size, Image.Resampling.LANCZOS)),
        np.array(eg3d_crop(five, TILE).cut_image(photo)),
        np.array(ffhq_crop(five, TILE).cut_image(photo)),
    ]
    titles = ["photo, landmarks from its mask", "crop=center", "crop=eg3d", "crop=ffhq"]
    return _titled(tiles, titles, columns=4)


def make_edit(cat: ProceduralPortraits, person: ProceduralPortraits) -> Image.Image:
    """Show two heads, unchanged and with one attribute scaled."""
    tiles, titles = [], []
    for portraits, label_set, name in (
        (cat, CATMASK_HQ, "ear_size"),
        (person, CELEBAMASK_HQ, "ear_size"),
    ):
        value = getattr(portraits.parameters, name)
        edited = replace(portraits.parameters, **{name: 1.5 * value})
        for parameters, title in ((portraits.parameters, "unchanged"), (edited, f"{name} x 1.5")):
            render = render_portrait(parameters[:1], make_camera(0.25, 0.1), TILE)
            tiles += [
                _tiles(render.image)[0],
                _tiles(colorize_label_map(render.label_map, label_set))[0],
            ]
            titles += [title, ""]
    return _titled(tiles, titles, columns=8)


def make_augmentation(cats: ProceduralPortraits) -> Image.Image:
    """Show images and masks as a discriminator sees them, with increasing probability."""
    image, label_map = cats.render.image, cats.render.label_map
    mask = F.one_hot(label_map.long(), CATMASK_HQ.num_classes).movedim(-1, 1).float() * 2 - 1
    small = torch.zeros(len(image), 3, 8, 8), torch.zeros(len(image), mask.shape[1], 8, 8)
    augmenter = Augmenter(AugmentSettings(mode="fixed"))
    tiles, titles = [], []
    for probability in (0.0, 0.2, 0.5, 0.8):
        random = BatchRandom((2,), range(len(image)))
        seen, _, seen_mask, _ = augmenter(image, small[0], mask, small[1], probability, random)
        tiles += list(_tiles(seen))
        tiles += list(_tiles(colorize_label_map(seen_mask.argmax(dim=1), CATMASK_HQ)))
        titles += [f"probability {probability:g}"] + [""] * (2 * len(image) - 1)
    return _titled(tiles, titles, columns=len(image))


def _tiles(images: Tensor) -> np.ndarray:  # [B, 3, H, W] -> [B, TILE, TILE, 3] uint8
    return to_uint8(images)


def _titled(tiles: Sequence[np.ndarray], titles: Sequence[str], columns: int) -> Image.Image:
    """Tile pictures of the same height with a title above each."""
    font = ImageFont.load_default(12)
    rows = []
    for first in range(0, len(tiles), columns):
        pictures = []
        for tile, title in zip(
            tiles[first : first + columns], titles[first : first + columns], strict=True
        ):
            picture = Image.new("RGB", (tile.shape[1], TILE + _TITLE_HEIGHT), "white")
            picture.paste(Image.fromarray(tile), (0, _TITLE_HEIGHT))
            ImageDraw.Draw(picture).text((4, 2), title, fill="black", font=font)
            pictures.append(np.array(picture))
        rows.append(np.concatenate(pictures, axis=1))
    return Image.fromarray(np.concatenate(rows))


def main() -> None:
    """Write all pictures."""
    people = make_procedural_person(range(24), TILE)
    cats = make_procedural_cat(range(24), TILE, variety="rich")
    person, cat = make_procedural_person([3], TILE), make_procedural_cat([3], TILE)
    pictures = {
        "procedural_people": make_sheet(people, 2, CELEBAMASK_HQ),
        "procedural_cats_rich": make_sheet(cats, 2, CATMASK_HQ),
        "label_sets": make_label_sets(person, cat),
        "cameras": make_cameras(person),
        "crops": make_crops(person),
        "augmentation": make_augmentation(make_procedural_cat(range(8), TILE, variety="rich")),
        "procedural_edit": make_edit(cat, make_procedural_person([9], TILE)),
    }
    for name, picture in pictures.items():
        picture.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
