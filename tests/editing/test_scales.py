"""One set of defaults edits generators of any scale, sharpness and size."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.painted_edits import PAINTS
from editing import edit_portrait
from editing.options import EditOptions, LossWeights
from editing.portrait import sample_portrait
from editing.receipt import Receipt
from mate3d.generator import Generator
from tests.editing import generators

MASK_ONLY = EditOptions(weights=LossWeights(distillation=0.0))


def edit(generator: Generator, paint: str, options: EditOptions = MASK_ONLY) -> Receipt:
    """Repaint the ears of a head, edit it by the mask alone, and return the receipt."""
    portrait = sample_portrait(generator, seed=0, truncation_psi=0.7)
    mask = PAINTS[paint](portrait.view(portrait.camera()).source_label_map)
    edited = edit_portrait(generator, mask=mask[0], source=0, options=options)
    return edited.receipt


def check(receipt: Receipt, *, least_iou: float, least_db: float) -> None:
    ears = receipt.labels["ears"]
    if ears.added_pixels == 0:
        assert ears.left_pixels <= 0.05 * ears.removed_pixels
    else:
        assert ears.iou.after >= least_iou
    views = receipt.psnr_outside_region_db, *receipt.psnr_outside_region_other_views_db
    assert min(views) >= least_db
    for name in ("eyes", "mouth", "nose"):
        assert receipt.labels[name].iou.after >= 0.97, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "paint"),
    [
        (generators.demo_cat, "no_ears"),
        (generators.demo_cat, "pointed_ears"),
        (generators.steep_demo, "bigger_ears"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_ears_are_edited_by_the_mask_alone(make: Callable[[], Generator], paint: str):
    check(edit(make(), paint), least_iou=0.8, least_db=40)


@pytest.mark.slow
def test_ears_of_more_pixels_need_no_more_steps():
    options = replace(MASK_ONLY, num_steps=30)
    check(edit(generators.large_demo(), "pointed_ears", options), least_iou=0.8, least_db=40)


@pytest.mark.slow
@pytest.mark.parametrize("paint", ["bigger_ears", "no_ears"])
def test_ears_of_a_foggy_generator_are_edited_by_the_mask_alone(paint: str):
    check(edit(generators.soft_cat(), paint), least_iou=0.7, least_db=35)


@pytest.mark.slow
def test_units_of_length_do_not_matter():
    options = replace(MASK_ONLY, num_steps=15)
    makers = generators.demo_cat, generators.demo_in_units
    one, other = (edit(make(), "bigger_ears", options) for make in makers)
    assert one.labels["ears"].iou.after == pytest.approx(other.labels["ears"].iou.after, abs=0.01)
    assert one.psnr_outside_region_db == pytest.approx(other.psnr_outside_region_db, abs=1)
