"""What a receipt says about masks and pictures made by hand."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from editing.measures import edited_pixels, measure
from editing.options import ReportOptions
from editing.outputs import ViewPair
from editing.receipt import Receipt
from editing.regions import PaintedView
from mate3d.cameras import make_camera
from mate3d.labels import CATMASK_HQ, get_label_set, one_hot_mask
from mate3d.procedural.portraits import CAT, make_portraits, render_portrait

SKIN, EARS, EYES = 1, 2, 3
SIDE = 32


def make_pair(source_map, edited_map, source=None, edited=None):
    """Renders with these label maps, [1, H, W], and pictures, [1, 3, H, W]."""
    blank = torch.zeros(1, 3, *source_map.shape[1:])
    source = blank if source is None else source
    edited = source if edited is None else edited
    heads = ((source, source_map), (edited, edited_map))
    outputs = [
        SimpleNamespace(image=image, segmentation=one_hot_mask(label_map, 19))
        for image, label_map in heads
    ]
    return ViewPair(*outputs)


def measured(source_map, painted, pair, class_ids=(EARS,), prompt="", others=(), **options):
    label_set = options.pop("label_set", CATMASK_HQ)
    label_prompts = options.pop("label_prompts", {})
    return measure(
        [(PaintedView(torch.zeros(1, 25), source_map, painted), pair)],
        others,
        label_set=label_set,
        class_ids=class_ids,
        prompt=prompt,
        label_prompts=label_prompts,
        options=ReportOptions(**options),
    )


@pytest.fixture
def head():
    """A head of skin with a block of 20 pixels of ears and two of eyes."""
    label_map = torch.zeros(1, SIDE, SIDE, dtype=torch.int64)
    label_map[:, 10:30, 8:24] = SKIN
    label_map[:, 6:10, 10:15] = EARS
    label_map[:, 15:17, 12:14] = EYES
    return label_map


def test_a_removed_part_reads_as_pixels_left(head):
    painted = torch.where(head == EARS, 0, head)
    edited = painted.clone()
    edited[:, 6, 10:13] = EARS
    edited[:, 2, 2] = EARS
    result = measured(head, painted, make_pair(head, edited))
    ears = result.labels["ears"]
    assert (ears.change, ears.removed_pixels, ears.left_pixels) == ("repainted", 20, 4)
    assert ears.line() == "20 px -> 4 px left"
    assert result.summary()["repainted"] == pytest.approx(0.8)
    perfect = measured(head, painted, make_pair(head, painted))
    assert perfect.labels["ears"].line() == "20 px -> 0 px left"
    assert perfect.summary()["repainted"] == 1.0


def test_an_added_part_reads_as_pixels_gained(head):
    painted, edited = head.clone(), head.clone()
    painted[:, 2:6, 10:15] = EARS
    edited[:, 3:6, 10:15] = EARS
    result = measured(head, painted, make_pair(head, edited))
    ears, background = result.labels["ears"], result.labels["background"]
    assert (ears.added_pixels, ears.gained_pixels, ears.removed_pixels) == (20, 15, 0)
    assert (ears.iou.before, ears.iou.after) == (20 / 40, 35 / 40)
    assert (background.change, background.left_pixels) == ("untouched", 5)


def test_labels_say_whether_they_were_repainted_could_change_or_could_not(head):
    edited = head.clone()
    edited[:, 15, 12] = SKIN
    result = measured(head, head, make_pair(head, edited), class_ids=(EARS, SKIN))
    changes = {name: one.change for name, one in result.labels.items()}
    assert changes == {
        "background": "untouched",
        "skin": "edited",
        "ears": "edited",
        "eyes": "untouched",
    }
    assert result.labels["eyes"].iou.after == pytest.approx(3 / 4)
    assert "untouched labels: IoU 0.875, at least 0.750 (eyes)" in result.lines()
    assert result.summary()["repainted"] is None


def test_several_painted_views_count_together_and_are_listed(head):
    painted = torch.where(head == EARS, 0, head)
    views = [
        (PaintedView(torch.zeros(1, 25), head, head), make_pair(head, head)),
        (PaintedView(torch.zeros(1, 25), head, painted), make_pair(head, painted)),
    ]
    result = measure(
        views, [], label_set=CATMASK_HQ, class_ids=(EARS,), prompt="", options=ReportOptions()
    )
    ears = result.labels["ears"]
    assert [one.after for one in ears.iou_by_view] == [1.0, None]
    assert (ears.iou.before, ears.iou.after) == (20 / 40, 1.0)


def test_region_is_a_distance_in_shares_of_the_side(head):
    repainted = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    repainted[..., 25, 25] = True
    region = edited_pixels([head], (EARS,), 0.1, repainted)[0, 0].numpy()
    near = (head[0] == EARS).numpy() | repainted[0, 0].numpy()
    pixels = np.argwhere(np.ones_like(near))
    distance, _ = cKDTree(np.argwhere(near)).query(pixels)
    assert np.array_equal(region.ravel(), distance <= 0.1 * SIDE)


def test_psnr_counts_pixels_outside_only(head):
    picture = torch.zeros(1, 3, SIDE, SIDE)
    edited = picture.clone()
    edited[..., 7, 12] = 1.0
    result = measured(head, head, make_pair(head, head, picture, edited))
    assert result.psnr_outside_region_db == 100.0
    edited[..., 31, 31] = 1.0
    pair = make_pair(head, head, picture, edited)
    result = measured(head, head, pair, others=[pair])
    outside = ~edited_pixels([head], (EARS,), 0.03)
    expected = 10 * math.log10(255**2 * outside.sum().item() / 127**2)
    assert result.psnr_outside_region_db == pytest.approx(expected)
    assert result.psnr_outside_region_other_views_db == (pytest.approx(expected),)


def test_a_region_that_is_the_whole_picture_gets_no_psnr(head):
    result = measured(head, head, make_pair(head, head), class_ids=(0, SKIN, EARS, EYES))
    assert result.psnr_outside_region_db is None
    assert result.region["note"] and result.lines()[-1].endswith(result.region["note"])


def test_numbers_that_are_not_finite_are_null_in_json(head):
    broken = torch.full((1, 3, SIDE, SIDE), torch.nan)
    result = measured(head, head, make_pair(head, head, None, broken))
    result = replace(result, psnr_outside_region_other_views_db=(math.nan, math.inf, 1.0))
    facts = {
        "prompt": "",
        "edit_classes": (),
        "num_steps": 1,
        "num_steps_planned": 1,
        "config_hash": "0",
    }
    receipt = Receipt(**vars(result), **facts, seconds={"total": -math.inf}, peak_memory_mib=None)

    def refuse(constant):
        raise AssertionError(constant)

    values = json.loads(receipt.to_json(), parse_constant=refuse)
    assert values["psnr_outside_region_other_views_db"] == [None, None, 1.0]
    assert values["seconds"] == {"total": None}


@pytest.fixture(scope="module")
def cats():
    """The same procedural cat from the front with white and with black ears."""
    colors = {"white": [0.95, 0.94, 0.92], "black": [0.11, 0.10, 0.11]}
    fur = {"fur_color": [0.47, 0.49, 0.53], "tabby": 0.0, "bicolor": 0.0, "spots": 0.0}
    made = {
        name: make_portraits(CAT, [3], 8, attributes={**fur, "ear_color": color}).parameters
        for name, color in colors.items()
    }
    return {name: render_portrait(cat, make_camera(0.0), 64) for name, cat in made.items()}


def test_named_colours_are_judged_in_the_picture(cats):
    label_map = cats["white"].label_map
    pair = make_pair(label_map, label_map, cats["white"].image, cats["black"].image)
    prompt = "a grey cat with black ears"
    result = measured(label_map, label_map, pair, (SKIN, EARS), prompt)
    ears, skin = result.colors["ears"], result.colors["skin"]
    assert (ears.word, ears.looks_before, ears.looks_after) == ("black", "white", "black")
    assert ears.agreement.before < 0.1 and ears.agreement.after > 0.7
    assert skin.agreement.before > 0.8 and skin.agreement.after > 0.8
    assert not measured(label_map, label_map, pair, (EARS,), "a cat with ears").colors
    assert set(measured(label_map, label_map, pair, (EARS,), prompt).colors) == {"ears"}
    by_label = measured(
        label_map, label_map, pair, (SKIN, EARS), "a grey cat", label_prompts={EARS: "black fur"}
    )
    assert {part: one.word for part, one in by_label.colors.items()} == {
        "skin": "grey",
        "ears": "black",
    }
    gone = make_pair(label_map, torch.where(label_map == EARS, 0, label_map), cats["white"].image)
    lost = measured(label_map, label_map, gone, prompt="black ears").colors["ears"]
    assert (lost.agreement.after, lost.looks_after) == (0.0, None)


def test_a_destroyed_muzzle_shows_in_what_the_network_sees(cats):
    head = cats["white"]
    label_map, ruined = head.label_map, head.image.clone()
    is_muzzle = (label_map == CATMASK_HQ.class_id("nose")) | (
        label_map == CATMASK_HQ.class_id("mouth")
    )
    rows, columns = is_muzzle[0].nonzero(as_tuple=True)
    fur = head.image[..., label_map[0] == SKIN].mean(dim=-1)[..., None, None]
    ruined[..., rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = fur
    untouched = make_pair(label_map, label_map, head.image)
    good = measured(label_map, label_map, untouched)
    bad = measured(label_map, label_map, make_pair(label_map, label_map, head.image, ruined))
    assert good.summary()["untouched_by_network"] == 1.0
    assert bad.labels["nose"].iou.after == 1.0
    for name in ("nose", "mouth"):
        assert good.labels[name].network_iou.before > 0.4
        assert bad.labels[name].network_ratio < 0.8
    assert bad.labels["eyes"].network_ratio > 0.8


def test_other_label_sets_are_measured_without_network_and_colours(head):
    result = measured(
        head, head, make_pair(head, head), prompt="black ears", label_set=get_label_set("sofgan")
    )
    assert all(one.network_iou.after is None for one in result.labels.values())
    assert result.colors == {} and result.summary()["untouched_by_network"] is None


def test_clip_that_is_not_there_costs_its_score_only(head, caplog):
    result = measured(head, head, make_pair(head, head), prompt="a cat", clip="/nowhere")
    assert result.clip_score is None
    assert "no CLIP weights at '/nowhere'" in caplog.text
