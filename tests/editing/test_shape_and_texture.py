"""Texture and shape change apart: each in its own region, and a colour never moves a mask."""

import torch

from editing.edited_generator import EditedGenerator
from editing.regions import ClassRegion, PaintedView, RegionOptions, everywhere, make_regions
from editing.views import view_source
from mate3d.labels import CATMASK_HQ, segmentation_to_label_map
from tests.editing.conftest import SCALE

EARS, EYES = 2, 3


def painted_view(generator, ws, camera, *changes):
    source = segmentation_to_label_map(generator.synthesize(ws, camera).segmentation)
    painted = source.clone()
    for rows, columns, class_id in changes:
        painted[:, rows, columns] = class_id
    return PaintedView(camera, source, painted)


def moved(generator, ws, regions):
    """An edit whose planes have changed everywhere."""
    edited = EditedGenerator(generator, ws, *regions, learnable=("texture", "shape"))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for offset in edited.offsets.values():
            offset.add_(torch.randn(offset.shape, generator=draw))
    return edited


@torch.no_grad()
def test_without_repainting_shape_is_the_sources_bit_for_bit(tiny_generator, tiny_ws, camera):
    view = painted_view(tiny_generator, tiny_ws, camera)
    regions = make_regions(RegionOptions(reach=None), (EARS, EYES), [view], SCALE, CATMASK_HQ)
    edited = moved(tiny_generator, tiny_ws, regions)
    points = torch.rand(1, 2000, 3, generator=torch.Generator().manual_seed(1)) * 0.6 - 0.3
    source, fused = edited.source_field().sample(points), edited.fused_field().sample(points)
    assert torch.equal(fused.sdf, source.sdf) and torch.equal(fused.class_sdf, source.class_sdf)
    is_edited = torch.isin(source.class_sdf.argmin(dim=-1), torch.tensor([EARS, EYES]))
    is_recolored = (fused.features != source.features).any(dim=-1)
    assert is_edited.any()
    # Up to the ramp at the region's edge.
    assert (is_recolored == is_edited).float().mean() > 0.9


@torch.no_grad()
def test_edited_parts_that_were_not_repainted_keep_their_shape(tiny_generator, tiny_ws, camera):
    change = slice(4, 12), slice(6, 26), EARS
    view = painted_view(tiny_generator, tiny_ws, camera, change)
    options = RegionOptions(reach=None, painted_reach=None, softness=0)
    regions = make_regions(options, (EARS, EYES), [view], SCALE, CATMASK_HQ)
    edited = moved(tiny_generator, tiny_ws, regions)
    points = torch.rand(1, 4000, 3, generator=torch.Generator().manual_seed(1)) * 0.6 - 0.3
    texture, shape = edited.fused_field().shares(points)
    labels = edited.source_field().sample(points).class_sdf.argmin(dim=-1)[..., None]
    assert (texture[labels == EYES] == 1).all()
    frozen = ClassRegion((EARS,))
    copies = (
        field.sample(points).class_sdf for field in (edited.source_field(), edited.edited_field())
    )
    is_ear = frozen(points, *copies) > 0
    is_painted = shape > is_ear
    assert is_painted.any()
    assert torch.equal(shape > 0, is_ear | is_painted)
    assert (shape[(labels == EYES) & ~is_ear & ~is_painted] == 0).any()


@torch.no_grad()
def test_a_change_of_colour_alone_leaves_the_mask(tiny_generator, tiny_ws, camera):
    nowhere = ClassRegion(())
    edited = moved(tiny_generator, tiny_ws, (nowhere, everywhere))
    for exact in (True, False):
        source = view_source(edited, camera, exact=exact)
        view = source.fused(edited.fused_field())
        assert (view.image - source.output.image).abs().mean() > 0.01
        torch.testing.assert_close(view.segmentation, source.output.segmentation)
        own = edited.render(edited.fused_field(), camera).segmentation
        assert not torch.allclose(own, source.output.segmentation, atol=1e-3)
