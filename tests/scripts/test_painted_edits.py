"""Masks painted by rule mean the same at every resolution."""

import pytest
import torch
import yaml
from torch.nn import functional as F

from benchmarks.painted_edits import (
    PAINTS,
    bigger_ears,
    bigger_nose,
    no_ears,
    pointed_ears,
)
from mate3d.cameras import make_camera
from mate3d.labels import CATMASK_HQ
from mate3d.procedural.portraits import CAT, make_portraits, render_portrait
from scripts._words import CONFIG_FOLDER

BACKGROUND, SKIN, EARS, EYES, MOUTH, NOSE = range(6)


@pytest.fixture(scope="module", params=[48, 96])
def label_map(request):
    """The mask of a cat from the front, [1, H, W]."""
    cat = make_portraits(CAT, [3], 8).parameters
    return render_portrait(cat, make_camera(0.0), request.param).label_map.long()


def area(label_map, class_id):
    return int((label_map == class_id).sum())


def test_enlarged_parts_have_twice_their_pixels_and_cover_only_what_is_behind(label_map):
    for paint, part, behind in ((bigger_ears, EARS, BACKGROUND), (bigger_nose, NOSE, SKIN)):
        painted = paint(label_map)
        assert area(painted, part) == pytest.approx(2 * area(label_map, part), rel=0.12)
        changed = painted != label_map
        assert set(painted[changed].tolist()) == {part}
        assert set(label_map[changed].tolist()) == {behind}


def test_pointed_ears_rise_to_a_tip(label_map):
    painted = pointed_ears(label_map)
    before, after = ((each == EARS)[0].any(dim=1).nonzero() for each in (label_map, painted))
    height = before.max() - before.min() + 1
    assert before.min() - after.min() > 0.3 * height
    top_row = (painted == EARS)[0, after.min()]
    assert 1 <= top_row.sum() <= 4


def test_without_ears_nothing_of_them_is_left_and_the_face_stays(label_map):
    painted = no_ears(label_map)
    assert area(painted, EARS) == 0
    changed = painted != label_map
    assert set(label_map[changed].tolist()) == {EARS}
    assert set(painted[changed].tolist()) <= {BACKGROUND, SKIN}


@pytest.mark.parametrize("name", PAINTS)
def test_masks_of_two_resolutions_agree(name):
    cat = make_portraits(CAT, [5], 8).parameters
    large = render_portrait(cat, make_camera(0.0), 96).label_map.long()
    small = F.interpolate(large[None].float(), size=(48, 48))[0].long()
    painted = F.interpolate(PAINTS[name](large)[None].float(), size=(48, 48))[0].long()
    assert (painted != PAINTS[name](small)).float().mean() < 0.02
    assert torch.equal(large, render_portrait(cat, make_camera(0.0), 96).label_map.long())


def test_the_list_of_edits_names_masks_and_classes_that_exist():
    plan = yaml.safe_load((CONFIG_FOLDER.parent / "benchmarks/edits.yaml").read_text())
    assert len(plan["edits"]) == 8
    for one in plan["edits"].values():
        assert one["paint"] in PAINTS
        assert one["classes"] == "all" or set(one["classes"]) <= set(CATMASK_HQ.class_names)
