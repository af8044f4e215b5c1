"""Painted masks, edited classes and pixels in 2D."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from editing.masks import check_fit, load_painted_mask, resolve_edit_classes
from editing.portrait import sample_portrait
from editing.regions import PaintedView, edit_mask
from mate3d.checkpoint import load_generator
from mate3d.checkpoints.assets import ASSETS
from mate3d.errors import UserError
from mate3d.label_files import load_label_map
from mate3d.labels import CATMASK_HQ, save_label_map

BACKGROUND, SKIN, EARS, EYES = range(4)


def view(before, after):
    return PaintedView(torch.zeros(1, 25), torch.tensor([[before]]), torch.tensor([[after]]))


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
    assert resolve_edit_classes(["auto"], [view(before, after)], CATMASK_HQ) == expected


def test_listed_classes_become_sorted_ids_and_unknown_ones_are_refused():
    same = view([SKIN, EARS], [SKIN, EARS])
    assert resolve_edit_classes(["eyes", "ears"], [same], CATMASK_HQ) == (EARS, EYES)
    with pytest.raises(UserError, match="'wings'.*ears"):
        resolve_edit_classes(["wings"], [same], CATMASK_HQ)


def test_all_is_every_class_but_the_background_and_so_is_auto_without_a_mask():
    same = view([SKIN, EARS], [SKIN, EARS])
    everything = (SKIN, EARS, EYES, 4, 5)
    assert resolve_edit_classes(["all"], [same], CATMASK_HQ) == everything
    assert resolve_edit_classes(["auto"], [same], CATMASK_HQ, with_mask=False) == everything
    with pytest.raises(UserError, match="equals the source mask"):
        resolve_edit_classes(["auto"], [same], CATMASK_HQ)


def test_auto_joins_the_classes_of_all_views():
    views = [view([SKIN, SKIN], [SKIN, EYES]), view([BACKGROUND, SKIN], [EARS, SKIN])]
    assert resolve_edit_classes(["auto"], views, CATMASK_HQ) == (EARS, EYES)


@pytest.fixture(scope="module")
def demo_masks():
    """The masks of some heads, and of the first from other sides."""
    generator = load_generator("demo_cat")
    heads = [sample_portrait(generator, seed=seed, truncation_psi=0.7) for seed in range(4)]
    fronts = [head.view(head.camera()).label_map for head in heads]
    return fronts, [heads[0].view(heads[0].camera(yaw)).label_map for yaw in (0.09, 0.5)]


def test_masks_of_other_heads_and_views_are_noticed(demo_masks, caplog):
    (own, *others), turned = demo_masks
    for mask in (*others, *turned):
        other = PaintedView(torch.zeros(1, 25), own, mask)
        with pytest.raises(UserError, match="mask x keeps .* painted for another source"):
            check_fit(other, "mask x", may_differ=False)
        caplog.clear()
        check_fit(other, "mask x", may_differ=True)
        assert "mask x keeps" in caplog.text


def grow(mask: torch.Tensor, class_id: int, pixels: int, over: tuple[int, ...]) -> torch.Tensor:
    area = edit_mask([mask], [class_id], pixels)[:, 0] & torch.isin(mask, torch.tensor(over))
    return mask.masked_fill(area, class_id)


def test_big_edits_of_the_own_mask_are_not_refused(demo_masks, caplog):
    for own in demo_masks[0]:
        huge_ears = grow(own, EARS, 12, (BACKGROUND,))
        edits = [
            huge_ears,
            own.masked_fill(own == EARS, BACKGROUND),
            grow(own, SKIN, 6, (BACKGROUND,)),
            grow(grow(huge_ears, 5, 4, (SKIN, 4)), EYES, 3, (SKIN,)),
        ]
        for mask in edits:
            check_fit(PaintedView(torch.zeros(1, 25), own, mask), "it", may_differ=False)
    assert not caplog.text


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
