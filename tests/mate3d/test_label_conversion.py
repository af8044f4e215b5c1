"""Conversions against the tables that the releases publish, and what they say they lose."""

import itertools

import numpy as np
import pytest

from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion, swap_classes
from mate3d.labels import CATMASK_HQ, get_label_set, label_set_names

PUBLISHED = {
    ("sofgan", "celebamask_hq"): [
        *(0, 1, 6, 7, 4, 5, 2, 2, 10, 11, 12, 8, 9, 15, 3, 17, 16, 18, 13, 14)
    ],
    ("celebamask_hq", "face_8"): [0, 1, 2, 3, 3, 3, 4, 4, 5, 5, 6, 6, 6, 7, 7, 5, 1, 1, 0],
    ("celebamask_hq", "face_5"): [0, 1, 1, 4, 2, 2, 2, 2, 1, 1, 2, 2, 2, 3, 4, 4, 4, 1, 4],
}


def _convert(source: str, target: str):
    return find_conversion(get_label_set(source), get_label_set(target))


@pytest.mark.parametrize("names", PUBLISHED)
def test_published_tables_are_used(names):
    assert _convert(*names).table.tolist() == PUBLISHED[names]


def test_classes_keep_their_names_where_the_target_has_them():
    """A class of the same name in both sets is the same class, whatever the way between them."""
    num_conversions = 0
    for source, target in itertools.permutations(map(get_label_set, label_set_names()), 2):
        try:
            table = find_conversion(source, target).table
        except UserError:
            continue
        num_conversions += 1
        for class_name in set(source.class_names) & set(target.class_names):
            got = target.class_names[table[source.class_id(class_name)]]
            assert got == class_name, (source.name, target.name, class_name)
    assert num_conversions > 10


def test_renumbering_works_both_ways_and_loses_nothing():
    there = _convert("face_parsing_bisenet", "celebamask_hq")
    back = _convert("celebamask_hq", "face_parsing_bisenet")
    label_map = np.arange(19, dtype=np.uint8).reshape(1, 19)
    assert there.losses == back.losses == ()
    assert (back.apply(there.apply(label_map)) == label_map).all()
    assert there.apply(label_map).dtype == np.uint8


def test_sets_without_a_direct_table_are_chained():
    conversion = _convert("face_parsing_bisenet", "face_8")
    source, target = conversion.source, conversion.target
    assert target.class_names[conversion.table[source.class_id("hat")]] == "hair"
    assert target.class_names[conversion.table[source.class_id("l_brow")]] == "brows"


def test_losses_are_said_in_sentences():
    merged = _convert("celebamask_hq", "face_8").losses
    assert "l_brow and r_brow both become brows." in merged
    assert "mouth, u_lip and l_lip all become mouth." in merged
    assert "cloth is dropped." in merged
    assert _convert("celebamask_hq", "sofgan").losses == ("nose_2 never occurs in the result.",)
    assert any("earrings" in loss for loss in _convert("face_15", "face_5").losses)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("catmask_hq", "celebamask_hq", "celebamask_hq.* none"),
        ("face_15", "celebamask_hq", "celebamask_hq.* face_8, face_5"),
    ],
)
def test_impossible_conversions_list_what_is_possible(source, target, message):
    with pytest.raises(UserError, match=message):
        _convert(source, target)


def test_swapping_two_classes_twice_gives_the_same_map():
    label_map = np.array([[0, 4, 5, 4]], dtype=np.uint8)
    mouth, nose = CATMASK_HQ.class_id("mouth"), CATMASK_HQ.class_id("nose")
    swapped = swap_classes(label_map, mouth, nose)
    assert swapped.tolist() == [[0, 5, 4, 5]]
    assert (swap_classes(swapped, mouth, nose) == label_map).all()
