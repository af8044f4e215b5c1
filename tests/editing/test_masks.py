"""Painted masks, edited classes and pixels in 2D."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from editing.masks import load_painted_mask, resolve_edit_classes
from editing.regions import edit_mask
from mate3d.checkpoints.assets import ASSETS
from mate3d.errors import UserError
from mate3d.label_files import load_label_map
from mate3d.labels import CATMASK_HQ, save_label_map

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


DEMO_MASK = ASSETS / "demo_edit" / "mask.png"


@pytest.fixture
def read(tmp_path, caplog):
    """Save a painted mask, read it at 128 px, and return it with the lines of the log."""

    def save_and_read(image, **kwargs):
        caplog.clear()
        caplog.set_level(logging.INFO)
        image.save(tmp_path / "mask.png")
        painted = load_painted_mask(tmp_path / "mask.png", CATMASK_HQ, 128, **kwargs)
        assert painted.dtype == torch.int64 and painted.shape == (1, 128, 128)
        return painted[0].numpy(), caplog.messages

    return save_and_read


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_multiples_of_the_size_are_reduced_to_what_was_painted(read, factor):
    ids = load_label_map(DEMO_MASK, CATMASK_HQ)
    colors = Image.open(DEMO_MASK).convert("RGB")
    large = colors.resize((factor * 128, factor * 128), Image.Resampling.NEAREST)
    painted, lines = read(large)
    assert np.array_equal(painted, ids)
    assert len(lines) == (factor > 1) and all("; 0 squares" in line for line in lines)


def test_a_square_of_several_classes_takes_the_commonest_and_is_counted(read, tmp_path):
    ids = np.kron(load_label_map(DEMO_MASK, CATMASK_HQ), np.ones((2, 2), np.uint8))
    expected = ids[::2, ::2].copy()
    expected[0, 1] = EARS
    ids[0, 0] = ids[0, 2] = ids[1, 2] = ids[1, 3] = EARS
    save_label_map(tmp_path / "large.png", ids, CATMASK_HQ)
    painted, (line,) = read(Image.open(tmp_path / "large.png"))
    assert np.array_equal(painted, expected) and "from 256 to 128 pixels; 2 squares" in line


@pytest.mark.parametrize("size", [(64, 64), (192, 192), (256, 128), (128, 256), (0, 0)])
def test_other_sizes_and_empty_masks_are_refused(read, size):
    image = Image.new("L", size, SKIN) if size[0] else Image.new("RGBA", (128, 128))
    with pytest.raises(UserError, match="use 128 x 128" if size[0] else "is all background"):
        read(image)
