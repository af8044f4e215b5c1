"""Painted masks, edited classes and pixels in 2D."""

import pytest
import torch

from editing.masks import resolve_edit_classes
from editing.regions import edit_mask
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ

BACKGROUND, SKIN, EARS, EYES = range(4)


def label_map(rows):
    return torch.tensor([rows])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([BACKGROUND, SKIN], [EARS, EARS], (EARS,)),
        ([EARS, SKIN], [BACKGROUND, SKIN], (EARS,)),
        ([EARS, SKIN, SKIN], [SKIN, EYES, SKIN], (EARS, EYES)),
        ([BACKGROUND, SKIN], [SKIN, SKIN], (SKIN,)),
        ([EARS, EARS], [EYES, EARS], (EYES,)),
    ],
)
def test_auto_takes_the_part_that_was_painted_or_erased(before, after, expected):
    classes = resolve_edit_classes(["auto"], label_map([before]), label_map([after]), CATMASK_HQ)
    assert classes == expected


def test_listed_classes_become_sorted_ids_and_unknown_ones_are_refused():
    same = label_map([[SKIN, EARS]])
    assert resolve_edit_classes(["eyes", "ears"], same, same, CATMASK_HQ) == (EARS, EYES)
    with pytest.raises(UserError, match="'wings'.*ears"):
        resolve_edit_classes(["wings"], same, same, CATMASK_HQ)


def test_edit_mask_joins_maps_and_grows_by_a_square():
    first, second = torch.zeros(1, 7, 7).long(), torch.zeros(1, 7, 7).long()
    first[0, 1, 1] = EARS
    second[0, 5, 5] = EARS
    mask = edit_mask([first, second], [EARS], 1)
    assert mask.shape == (1, 1, 7, 7)
    assert mask[0, 0, :3, :3].all()
    assert mask[0, 0, 4:, 4:].all()
    assert mask.sum() == 18
    assert edit_mask([first, second], [EARS], 0).sum() == 2
