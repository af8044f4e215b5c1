"""Fusion of a frozen and an edited generator reproduces the release's recorded numbers."""

import pytest
import torch

from editing.edited_generator import EditedGenerator
from editing.regions import ClassRegion
from tests.golden import (
    assert_golden,
    convert_generator_state,
    golden_face,
    make_golden_generator,
    sub_state,
)
from tests.reference.regions import GridRegion

GRID = (16, 16, 48)


@pytest.fixture(scope="module")
def face():
    return golden_face()


def make_edited(face, region):
    edited = EditedGenerator(make_golden_generator(), face["edit.wA"], region)
    state = convert_generator_state(sub_state("edit.stateB."))
    edited.load_edit_state({"ws": face["edit.wB"]} | state)
    return edited


def class_ids(face):
    return tuple(face["edit.labels_used"].tolist())


def regions(face):
    return {
        "hard": GridRegion(class_ids(face), GRID),
        "soft": GridRegion(class_ids(face), GRID, keep_dilation=2, keep_erosion=10),
    }


def test_labels_of_both_volumes_match(face):
    edited = make_edited(face, ClassRegion(class_ids(face)))
    points = face["edit.pts"].flatten(1, 2)
    for field, name in ((edited.source_field(), "A"), (edited.edited_field(), "B")):
        labels = field.sample(points).class_sdf.argmin(dim=-1).view(1, *GRID)
        share_unlike = (labels != face[f"edit.label{name}"]).float().mean()
        assert share_unlike <= 1e-3, share_unlike


def share_kept(face, edited):
    points = face["edit.pts"].flatten(1, 2)
    fields = edited.source_field(), edited.edited_field()
    with torch.no_grad():
        share = edited.region(points, *(field.sample(points).class_sdf for field in fields))
    return 1 - share.view(1, *GRID)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_region_on_the_sample_grid_matches(face, kind):
    kept = share_kept(face, make_edited(face, regions(face)[kind]))
    assert_golden(kept, face[f"edit.keep_{kind}"].float())


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_fused_render_and_normals_match(face, kind):
    edited = make_edited(face, regions(face)[kind])
    view = edited.generator.render(
        edited.fused_field(),
        edited.source_ws,
        face["in.c"][1:],
        depths=face["edit.depths"],
        with_normals=True,
    )
    assert_golden(view.image, face[f"edit.{kind}.image"])
    assert_golden(view.image_raw, face[f"edit.{kind}.image_raw"])
    assert_golden(view.depth, face[f"edit.{kind}.image_depth"])
    assert_golden(view.segmentation_raw, face[f"edit.{kind}.semantic_raw"])
    assert_golden(view.segmentation[..., ::4, ::4], face[f"edit.{kind}.semantic"])
    assert_golden(view.normals, face[f"edit.{kind}.normal"])


def test_region_of_points_equals_the_hard_grid(face):
    edited = make_edited(face, ClassRegion(class_ids(face)))
    assert torch.equal(share_kept(face, edited), face["edit.keep_hard"].float())
