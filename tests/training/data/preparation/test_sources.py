"""What sources list: pairs by name, and a reason for everything that is left out."""

import dataclasses
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mate3d.cameras import make_camera
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, get_label_set, save_label_map
from training.data.preparation.sources import CatMaskHqSource, CelebAMaskHqSource, FolderSource

FIVE = [[3.0, 3], [6, 3], [4, 5], [3, 7], [6, 7]]


def _add_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (10, 20, 30)).save(path)
    return path


def _add_mask(path: Path, label_set=CELEBAMASK_HQ, value: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_label_map(path, np.full((8, 8), value, np.uint8), label_set)
    return path


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Four photos of all formats in nested folders with their masks."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    for name in ("a.jpg", "sub/a.png", "sub/deep/b.webp", "c.JPEG"):
        _add_image(images / name)
        _add_mask(masks / Path(name).with_suffix(".png"))
    return images, masks


def _names(listing) -> list[str]:
    return [item.name for item in listing.items]


def test_photos_of_all_formats_are_paired_by_relative_name(folders):
    source = FolderSource(*folders, CELEBAMASK_HQ)
    listing = source.list_items()
    assert _names(listing) == ["a.png", "c.png", "sub/a.png", "sub/deep/b.png"]
    assert all(item.mask == (folders[1] / item.name,) for item in listing.items)
    assert listing.unusable == () and listing.notes == ()
    # Worker processes get a copy.
    assert (pickle.loads(pickle.dumps(source)).read_mask(listing.items[0]) == 1).all()


def test_everything_unpaired_is_listed_with_its_reason(folders):
    images, masks = folders
    _add_image(images / "a.png")
    _add_image(images / "lonely.png")
    _add_mask(masks / "sub/extra.png")
    listing = FolderSource(images, masks, CELEBAMASK_HQ).list_items()
    assert _names(listing) == ["c.png", "sub/a.png", "sub/deep/b.png"]
    assert listing.unusable == (
        ("a.png", f"several images have this name: {images / 'a.jpg'}, {images / 'a.png'}"),
        ("lonely.png", "no mask"),
        ("sub/extra.png", f"mask {masks / 'sub/extra.png'} has no image"),
    )


def test_masks_may_lie_beside_or_below_the_photos(tmp_path):
    _add_image(tmp_path / "beside/a.jpg")
    _add_mask(tmp_path / "beside/a.png")
    listing = FolderSource(tmp_path / "beside", tmp_path / "beside", CELEBAMASK_HQ).list_items()
    assert [item.image.name for item in listing.items] == ["a.jpg"]
    _add_image(tmp_path / "below/a.jpg")
    _add_mask(tmp_path / "below/masks/a.png")
    listing = FolderSource(tmp_path / "below", tmp_path / "below/masks", CELEBAMASK_HQ).list_items()
    assert _names(listing) == ["a.png"] and listing.unusable == ()


def test_hidden_files_and_leftovers_of_archives_are_ignored(folders):
    """Also without masks, which a network makes then."""
    for name in (".hidden.png", "__MACOSX/a.png", "sub/._a.png", ".cache/a.png"):
        _add_image(folders[0] / name)
    (folders[0] / "notes.txt").write_text("")
    for masks in (folders[1], None):
        listing = FolderSource(folders[0], masks, CELEBAMASK_HQ).list_items()
        assert len(listing.items) == 4 and listing.unusable == ()
        assert all(len(item.mask) == (masks is not None) for item in listing.items)


def test_linked_folders_are_followed_without_end(folders, tmp_path):
    for folder in folders:
        (folder / "loop").symlink_to(folder)
        (tmp_path / f"more_{folder.name}").mkdir()
        (folder / "linked").symlink_to(tmp_path / f"more_{folder.name}")
    _add_image(tmp_path / "more_images/x.png")
    _add_mask(tmp_path / "more_masks/x.png")
    listing = FolderSource(*folders, CELEBAMASK_HQ).list_items()
    assert len(listing.items) == 5 and "linked/x.png" in _names(listing)


def test_what_other_files_know_is_joined_by_name_without_suffix(folders, tmp_path):
    known = {
        "landmarks": {"a.jpg": FIVE},
        "captions": {"a": "a man", ".\\sub\\a.JPG": "a girl", "gone.png": "a woman"},
        "attributes": {"a.png": {"Smiling": 1}, "sub/a.png": {"Smiling": 1, "Male": 0}},
    }
    files = {kind: tmp_path / f"{kind}.json" for kind in known}
    for kind, content in known.items():
        files[kind].write_text(json.dumps(content))
    listing = FolderSource(*folders, CELEBAMASK_HQ, **files).list_items()
    first, second, third, _ = listing.items
    assert first.landmarks == tuple(map(tuple, FIVE)) and third.landmarks is None
    assert (first.caption, second.caption, third.caption) == ("a man", "", "a girl")
    assert first.attributes == {"Smiling": 1.0} and second.attributes == {}
    assert f"{files['captions']}: 1 of 3 names have no usable image." in listing.notes
    assert any(f"{files['landmarks']}: 3 of 4" in note for note in listing.notes)


def test_photos_without_a_usable_camera_or_landmarks_are_unusable(folders, tmp_path):
    turned = make_camera(0.3)[0]
    turned[[1, 2, 5, 6, 9, 10]] *= -1
    cameras = {"a.jpg": [1.0] * 20, "c.jpg": turned.tolist(), "sub/a": turned.tolist()}
    (tmp_path / "cameras.json").write_text(json.dumps(cameras))
    (tmp_path / "points.json").write_text(json.dumps({"sub/a.png": FIVE[:3]}))
    files = {"cameras": tmp_path / "cameras.json", "landmarks": tmp_path / "points.json"}
    listing = FolderSource(*folders, CELEBAMASK_HQ, **files).list_items()
    assert [(item.name, item.camera) for item in listing.items] == [
        ("c.png", tuple(make_camera(0.3)[0].tolist()))
    ]
    assert any("OpenGL" in note for note in listing.notes)
    assert [(name, reason.split()[0]) for name, reason in listing.unusable] == [
        ("a.png", "camera:"),
        ("sub/a.png", "landmarks:"),
        ("sub/deep/b.png", "not"),
    ]


@pytest.mark.parametrize("copies_from", [None, 140000])
def test_numbered_copies_of_eg3ds_ffhq_are_left_out_where_wanted(tmp_path, copies_from):
    numbers = (0, 139999, 140000, 152345)
    names = [f"{n // 1000:05d}/img{n:08d}.png" for n in numbers]
    for name in names:
        _add_image(tmp_path / "images" / name)
        _add_mask(tmp_path / "masks" / name)
    camera = make_camera(0.0)[0].tolist()
    known = [*names, "00069/img00069999.png"]
    dataset_json = {"labels": [[name, camera] for name in known]}
    (tmp_path / "images/dataset.json").write_text(json.dumps(dataset_json))
    options = {"cameras": tmp_path / "images/dataset.json", "copies_from": copies_from}
    source = FolderSource(tmp_path / "images", tmp_path / "masks", CELEBAMASK_HQ, **options)
    listing = source.list_items()
    assert _names(listing) == names[: 4 if copies_from is None else 2]
    assert all(item.camera is not None for item in listing.items) and listing.unusable == ()
    is_noted = any("2 copies" in note and "140000" in note for note in listing.notes)
    assert is_noted == (copies_from is not None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, masks: ("nowhere", masks), "folder not found: nowhere"),
        (lambda images, masks: (masks.parent / "empty", masks), "no .png, .jpg"),
        (lambda images, masks: (images, images / "sub/deep"), "no .png files"),
        (lambda images, masks: (images, masks / "sub/deep"), "first a.png: no mask"),
    ],
)
def test_nothing_usable_is_one_clear_line(folders, change, message):
    (folders[0].parent / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        FolderSource(*change(*folders), CELEBAMASK_HQ).list_items()


@pytest.fixture
def cats(tmp_path) -> tuple[Path, Path]:
    """AFHQv2's tree with three cats and a dog, and masks of two of the cats."""
    for name in ("train/cat/flickr_cat_000002", "train/cat/pixabay_cat_000001"):
        _add_image(tmp_path / f"afhq_v2/{name}.png")
    _add_image(tmp_path / "afhq_v2/test/cat/flickr_cat_000008.png")
    _add_image(tmp_path / "afhq_v2/train/dog/flickr_dog_000003.png")
    for name in ("flickr_cat_000002", "flickr_cat_000008"):
        _add_mask(tmp_path / f"CatMask/{name}.png", CATMASK_HQ, 4)
    return tmp_path / "afhq_v2", tmp_path / "CatMask"


def test_cats_are_matched_by_file_name_whatever_their_folders(cats):
    listing = CatMaskHqSource(*cats).list_items()
    assert _names(listing) == ["flickr_cat_000002.png", "flickr_cat_000008.png"]
    assert listing.items[1].image.parent.parent.name == "test"
    assert listing.unusable == (("pixabay_cat_000001.png", "no mask"),)
    assert len(listing.notes) == 1 and listing.notes[0].startswith("1 images outside")
    flat = CatMaskHqSource(cats[0] / "train/cat", cats[1]).list_items()
    assert _names(flat) == ["flickr_cat_000002.png"] and flat.notes == ()


def test_cats_of_the_same_name_are_unusable_and_captions_join_by_it(cats, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"test/cat/flickr_cat_000008.png": "a kitten"}))
    _add_image(cats[0] / "test/cat/flickr_cat_000002.png")
    listing = CatMaskHqSource(*cats, captions=tmp_path / "c.json").list_items()
    assert [item.caption for item in listing.items] == ["a kitten"]
    reasons = dict(listing.unusable)
    assert "several images have this name" in reasons["flickr_cat_000002.png"]


def test_mouth_and_nose_of_cats_can_be_exchanged(cats):
    for swap, name in ((False, "mouth"), (True, "nose")):
        source = CatMaskHqSource(*cats, swap_mouth_and_nose=swap)
        label_map = source.read_mask(source.list_items().items[0])
        assert (label_map == CATMASK_HQ.class_id(name)).all()


def test_name_that_is_not_utf8_is_unusable(tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/lat\xe9n.png")
    _add_image(tmp_path / "a.png").rename(odd)
    _add_image(tmp_path / "b.png")
    listing = FolderSource(tmp_path, None, CELEBAMASK_HQ).list_items()
    assert [item.name for item in listing.items] == ["b.png"]
    ((name, reason),) = listing.unusable
    assert name == "lat?n.png" and "UTF-8" in reason


# CelebAMask-HQ: its masks are one file a part.

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
def celeba(tmp_path, label_map) -> CelebAMaskHqSource:
    """Photos 0 (all parts), 1 (skin and hair), 2 (no parts) and 2001 (skin alone)."""
    for number in (0, 1, 2, 2001):
        _add_image(tmp_path / f"CelebA-HQ-img/{number}.jpg")
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


def test_parts_merge_to_the_mask_and_later_parts_cover_earlier_ones(tmp_path, celeba, label_map):
    item = celeba.list_items().items[0]
    assert item.name == "0.png" and len(item.mask) == 18
    assert (celeba.read_mask(item) == label_map).all()
    # By the release's list, not by the files' names: "cloth" is before "skin" in the alphabet.
    _add_part(tmp_path, 1, "cloth", label_map == 5)
    item = celeba.list_items().items[1]
    hair, skin = CELEBAMASK_HQ.class_id("hair"), CELEBAMASK_HQ.class_id("skin")
    expected = np.where(label_map > 9, hair, skin)
    expected[label_map == 5] = CELEBAMASK_HQ.class_id("cloth")
    assert (celeba.read_mask(item) == expected).all()


def test_what_is_known_of_people_is_joined_by_number(tmp_path, celeba):
    (tmp_path / "captions.json").write_text(json.dumps({"CelebA-HQ-img/00000.jpg": "somebody"}))
    listing = dataclasses.replace(celeba, captions=tmp_path / "captions.json").list_items()
    first, second, last = listing.items
    assert [item.name for item in listing.items] == ["0.png", "1.png", "2001.png"]
    assert [item.caption for item in listing.items] == ["somebody", "", ""]
    assert first.attributes == {"Male": 0, "Smiling": 1, "Wearing_Hat": 1, "No_Beard": 1}
    assert second.attributes["Male"] == 1 and last.attributes == {}
    assert listing.unusable == (("2.png", "no part files"),)
    assert any("1 of 3 usable images" in note for note in listing.notes)


def test_odd_files_of_people_have_a_reason_each(tmp_path, celeba):
    _add_part(tmp_path, 1, "tail", np.ones((8, 8), bool))
    _add_part(tmp_path, 77, "skin", np.ones((8, 8), bool))
    skin = tmp_path / "CelebAMask-HQ-mask-anno/1/02001_skin.png"
    (skin.parent / "2001_skin.png").write_bytes(skin.read_bytes())
    _add_image(tmp_path / "CelebA-HQ-img/cover.png")
    listing = celeba.list_items()
    assert [item.name for item in listing.items] == ["0.png", "1.png"]
    parts = tmp_path / "CelebAMask-HQ-mask-anno"
    assert dict(listing.unusable) == {
        "0/00001_tail.png": "not a part file such as 00000_skin.png",
        "2.png": "no part files",
        "2001.png": "several files for one part",
        "77.png": f"mask {parts / '0/00077_skin.png'} has no image",
        "cover.png": "names of CelebAMask-HQ images must be numbers",
    }


def test_parts_that_do_not_fit_or_are_broken_are_named(tmp_path, celeba):
    item = celeba.list_items().items[1]
    _add_part(tmp_path, 1, "hair", np.ones((4, 8), bool))
    with pytest.raises(UserError, match="00001_hair.png has 8x4 pixels, 00001_skin.png has 8x8"):
        celeba.read_mask(item)
    (tmp_path / "CelebAMask-HQ-mask-anno/0/00001_hair.png").write_bytes(b"")
    with pytest.raises(UserError, match="00001_hair.png is not a readable image"):
        celeba.read_mask(item)


def test_people_are_listed_without_masks_and_refused_with_other_labels(celeba):
    listing = dataclasses.replace(celeba, masks=None).list_items()
    assert [item.mask for item in listing.items] == [()] * 4
    with pytest.raises(UserError, match="classes of celebamask_hq, not of face_8"):
        dataclasses.replace(celeba, label_set=get_label_set("face_8")).list_items()
