"""CelebAMask-HQ's per-part files against masks that they were cut from."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mate3d.errors import UserError
from mate3d.labels import CELEBAMASK_HQ, get_label_set
from training.data.preparation.sources import CelebAMaskHqSource

ATTRIBUTES = """3
Male Smiling Wearing_Hat No_Beard
0.jpg  -1  1  1  1
1.jpg   1 -1 -1 -1
2.jpg   1 -1 -1  1
"""


def _add_part(root: Path, number: int, part: str, pixels: np.ndarray, *, rgb: bool = False) -> None:
    folder = root / f"CelebAMask-HQ-mask-anno/{number // 2000}"
    folder.mkdir(parents=True, exist_ok=True)
    values = pixels.astype(np.uint8) * 255
    Image.fromarray(np.repeat(values[..., None], 3, 2) if rgb else values).save(
        folder / f"{number:05d}_{part}.png"
    )


@pytest.fixture
def label_map() -> np.ndarray:
    """All classes, each at least once."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.arange(19), rng.integers(0, 19, 45)]).reshape(8, 8).astype(np.uint8)


@pytest.fixture
def source(tmp_path, label_map) -> CelebAMaskHqSource:
    """Photos 0 (all parts), 1 (skin and hair), 2 (no parts) and 2001 (skin alone)."""
    for number in (0, 1, 2, 2001):
        (tmp_path / "CelebA-HQ-img").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16)).save(tmp_path / f"CelebA-HQ-img/{number}.jpg")
    for id_, part in enumerate(CELEBAMASK_HQ.class_names[1:], start=1):
        _add_part(tmp_path, 0, part, label_map == id_, rgb=id_ % 2 == 0)
    _add_part(tmp_path, 1, "skin", np.ones((8, 8), bool))
    _add_part(tmp_path, 1, "hair", label_map > 9)
    _add_part(tmp_path, 2001, "skin", np.ones((8, 8), bool))
    (tmp_path / "attributes.txt").write_text(ATTRIBUTES)
    return CelebAMaskHqSource(
        tmp_path / "CelebA-HQ-img",
        tmp_path / "CelebAMask-HQ-mask-anno",
        attributes=tmp_path / "attributes.txt",
    )


def test_parts_of_a_mask_merge_to_the_mask(source, label_map):
    item = source.list_items().items[0]
    assert item.name == "0.png" and len(item.mask) == 18
    assert (source.read_mask(item) == label_map).all()


def test_later_parts_cover_earlier_ones(tmp_path, source, label_map):
    item = source.list_items().items[1]
    hair, skin = CELEBAMASK_HQ.class_id("hair"), CELEBAMASK_HQ.class_id("skin")
    assert (source.read_mask(item) == np.where(label_map > 9, hair, skin)).all()
    # By the release's list, not by the files' names: "cloth" is before "skin" in the alphabet.
    _add_part(tmp_path, 1, "cloth", label_map == 5)
    item = source.list_items().items[1]
    expected = np.where(label_map > 9, hair, skin)
    expected[label_map == 5] = CELEBAMASK_HQ.class_id("cloth")
    assert (source.read_mask(item) == expected).all()


def test_all_that_is_known_is_joined_by_number(tmp_path, source):
    (tmp_path / "captions.json").write_text(json.dumps({"CelebA-HQ-img/00000.jpg": "somebody"}))
    listing = dataclasses.replace(source, captions=tmp_path / "captions.json").list_items()
    first, second, last = listing.items
    assert [item.name for item in listing.items] == ["0.png", "1.png", "2001.png"]
    assert [item.caption for item in listing.items] == ["somebody", "", ""]
    assert first.attributes == {"Male": 0, "Smiling": 1, "Wearing_Hat": 1, "No_Beard": 1}
    assert second.attributes["Male"] == 1 and last.attributes == {}
    assert listing.unusable == (("2.png", "it has no part files"),)
    assert any("1 of 3 usable images are not named" in note for note in listing.notes)


def test_odd_files_have_a_reason_each(tmp_path, source):
    _add_part(tmp_path, 1, "tail", np.ones((8, 8), bool))
    _add_part(tmp_path, 77, "skin", np.ones((8, 8), bool))
    skin = tmp_path / "CelebAMask-HQ-mask-anno/1/02001_skin.png"
    (skin.parent / "2001_skin.png").write_bytes(skin.read_bytes())
    Image.new("RGB", (16, 16)).save(tmp_path / "CelebA-HQ-img/cover.png")
    listing = source.list_items()
    assert [item.name for item in listing.items] == ["0.png", "1.png"]
    parts = tmp_path / "CelebAMask-HQ-mask-anno"
    assert dict(listing.unusable) == {
        "0/00001_tail.png": "it is no part file such as 00000_skin.png",
        "2.png": "it has no part files",
        "2001.png": "a part of it has several files",
        "77.png": f"mask {parts / '0/00077_skin.png'} has no image",
        "cover.png": "the names of CelebAMask-HQ's images are numbers",
    }


def test_parts_that_do_not_fit_or_are_broken_are_named(tmp_path, source):
    item = source.list_items().items[1]
    _add_part(tmp_path, 1, "hair", np.ones((4, 8), bool))
    with pytest.raises(UserError, match="00001_hair.png has 8x4 pixels, 00001_skin.png has 8x8"):
        source.read_mask(item)
    (tmp_path / "CelebAMask-HQ-mask-anno/0/00001_hair.png").write_bytes(b"")
    with pytest.raises(UserError, match="00001_hair.png is not a readable image"):
        source.read_mask(item)


def test_without_masks_all_photos_are_listed(source):
    listing = dataclasses.replace(source, masks=None).list_items()
    assert [item.mask for item in listing.items] == [()] * 4


def test_other_label_sets_are_refused(source):
    with pytest.raises(UserError, match="classes of celebamask_hq, not of face_8"):
        dataclasses.replace(source, label_set=get_label_set("face_8")).list_items()
