"""Label set files: the published orders, colours, and that all files are consistent."""

import numpy as np
import pytest
import yaml

from mate3d.errors import UserError
from mate3d.label_colors import find_similar, look_up_colors
from mate3d.labels import (
    CATMASK_HQ,
    CELEBAMASK_HQ,
    LABEL_SET_FOLDER,
    get_label_set,
    get_mask_label_set,
    label_set_names,
)

PALETTE = CELEBAMASK_HQ.palette
FACE_SETS = ("celebamask_hq", "face_parsing_bisenet", "sofgan", "face_15", "face_8", "face_5")

# The orders as their releases document them.
ORDERS = {
    "celebamask_hq": "background skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip "
    "l_lip hair hat ear_r neck_l neck cloth",
    "face_parsing_bisenet": "background skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r "
    "nose mouth u_lip l_lip neck neck_l cloth hair hat",
    "catmask_hq": "background skin ears eyes mouth nose",
}


@pytest.mark.parametrize("name", ORDERS)
def test_classes_are_in_the_order_of_the_release(name):
    assert get_label_set(name).class_names == tuple(ORDERS[name].split())


def test_all_sets_are_named_and_versioned():
    assert set(label_set_names()) == {*FACE_SETS, "catmask_hq", "unlabelled"}
    assert all(get_label_set(name).version == 1 for name in label_set_names())
    counts = [get_label_set(name).num_classes for name in FACE_SETS]
    assert counts == [19, 19, 20, 15, 8, 5]
    assert (CATMASK_HQ.num_classes, get_label_set("unlabelled").num_classes) == (6, 0)


def test_cats_have_the_first_six_colours_of_people():
    assert CATMASK_HQ.palette == CELEBAMASK_HQ.palette[:6]


def test_a_class_has_the_same_colour_in_all_sets_of_faces():
    colors: dict[str, tuple[int, int, int]] = {}
    for name in FACE_SETS:
        label_set = get_label_set(name)
        for class_name, color in zip(label_set.class_names, label_set.palette, strict=True):
            assert colors.setdefault(class_name, color) == color, (name, class_name)
    # Eyes, brows and ears have the colour of their left half, no other class shares one.
    assert len(set(colors.values())) == len(colors) - 3


@pytest.mark.parametrize("name", FACE_SETS)
def test_mirroring_twice_changes_nothing_and_exchanges_sides(name):
    label_set = get_label_set(name)
    permutation = label_set.mirror_permutation()
    assert [permutation[i] for i in permutation] == list(range(label_set.num_classes))
    for id_, class_name in enumerate(label_set.class_names):
        mirrored = label_set.class_names[permutation[id_]]
        is_side = class_name[2:] in ("eye", "brow", "ear") and class_name[1] == "_"
        swapped = {"l": "r", "r": "l"}[class_name[0]] + class_name[1:] if is_side else class_name
        assert mirrored == swapped
    assert (label_set.left_side == "image") == (permutation != sorted(permutation))


def test_unknown_and_empty_sets_are_refused_with_what_is_allowed():
    with pytest.raises(UserError, match="'dogs'.* catmask_hq, "):
        get_label_set("dogs")
    with pytest.raises(UserError, match="'unlabelled'.* catmask_hq, "):
        get_mask_label_set("unlabelled")


@pytest.mark.parametrize(
    "path", sorted(LABEL_SET_FOLDER.glob("*.yaml")), ids=lambda path: path.stem
)
def test_files_are_consistent(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    label_set = get_label_set(path.stem)
    assert label_set.name == path.stem and label_set.version >= 1
    assert label_set.left_side in (None, "image")
    assert [one["id"] for one in content["classes"]] == list(range(label_set.num_classes))
    assert len(set(label_set.class_names)) == label_set.num_classes
    assert len(set(label_set.palette)) == label_set.num_classes
    for color in label_set.palette:
        assert len(color) == 3 and all(value in range(256) for value in color)
    mirrored = [id_ for pair in label_set.mirror_pairs for id_ in pair]
    assert len(set(mirrored)) == len(mirrored)
    for converter in label_set.converters:
        assert len(converter.table) == label_set.num_classes
        target_ids = range(get_label_set(converter.target).num_classes)
        assert all(id_ in target_ids for id_ in converter.table)


def test_colours_of_the_palette_have_their_place_and_others_are_unknown():
    ids = np.arange(19, dtype=np.uint8)[None]
    found, is_known = look_up_colors(np.array(PALETTE, np.uint8)[ids], PALETTE)
    assert (found == ids).all() and is_known.all() and found.dtype == np.uint8
    others = np.array([[(1, 2, 3), (255, 255, 254), PALETTE[5]]], np.uint8)
    found, is_known = look_up_colors(others, PALETTE)
    assert is_known.tolist() == [[False, False, True]] and found[0, 2] == 5


def test_similar_colours_are_nearer_to_one_class_than_to_any_other():
    colors = np.array([PALETTE[5], (204, 12, 204), (204, 14, 204), (200, 200, 200)])
    ids, is_similar = find_similar(colors, PALETTE, 1 / 4)
    assert ids[:3].tolist() == [5, 5, 5] and is_similar.tolist() == [True, True, False, False]
