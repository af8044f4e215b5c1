"""Fusion returns the source outside the region, the copy inside, and mixed gradients."""

import torch

from editing.regions import ClassRegion, everywhere
from tests.editing.conftest import make_edited


def half_space(points, source_class_sdf, edited_class_sdf):
    return (points[..., :1] > 0).to(points.dtype)


def random_points(count=500):
    return torch.rand(1, count, 3, generator=torch.Generator().manual_seed(0)) * 0.6 - 0.3


@torch.no_grad()
def test_fusion_with_empty_region_returns_source_bit_for_bit(tiny_generator, tiny_ws, camera):
    edited = make_edited(tiny_generator, tiny_ws, ClassRegion(()))
    source = tiny_generator.synthesize(tiny_ws, camera, with_normals=True)
    fused = edited.render(edited.fused_field(), camera, with_normals=True)
    for name in ("image", "image_raw", "segmentation", "depth", "opacity"):
        assert torch.equal(getattr(fused, name), getattr(source, name)), name
    torch.testing.assert_close(fused.normals, source.normals)  # here autograd, there closed form


def test_samples_outside_a_region_are_the_sources_bit_for_bit(tiny_generator, tiny_ws):
    edited = make_edited(tiny_generator, tiny_ws, half_space)
    points = random_points()
    fused = edited.fused_field().sample(points)
    with torch.no_grad():
        source = edited.source_field().sample(points)
    copy = edited.edited_field().sample(points)
    inside = points[0, :, 0] > 0
    for name in ("features", "sdf", "class_sdf"):
        values = getattr(fused, name)[0]
        assert torch.equal(values[~inside], getattr(source, name)[0, ~inside]), name
        torch.testing.assert_close(values[inside], getattr(copy, name)[0, inside])
    torch.testing.assert_close(edited.fused_field().sdf(points), fused.sdf)


def test_soft_share_mixes_features_before_decoding(tiny_generator, tiny_ws):
    edited = make_edited(tiny_generator, tiny_ws, lambda points, *_: 0.3 + 0 * points[..., :1])
    points = random_points()
    source, copy = edited.source_field(), edited.edited_field()
    pairs = zip(source.plane_features(points), copy.plane_features(points), strict=True)
    expected = source.decode(*(0.7 * kept + 0.3 * changed for kept, changed in pairs))
    fused = edited.fused_field().sample(points)
    torch.testing.assert_close(fused.features, expected.features)
    torch.testing.assert_close(fused.class_sdf, expected.class_sdf)


def test_gradients_reach_the_copy_from_inside_the_region_only(tiny_generator, tiny_ws):
    edited = make_edited(tiny_generator, tiny_ws, half_space)
    samples = edited.fused_field().sample(random_points())
    inside = (random_points()[..., :1] > 0).float()
    parameters = [edited.ws, *edited.weight_parameters()]
    loss = (samples.sdf * (1 - inside)).sum()
    outside_gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    assert all(g is None or not g.any() for g in outside_gradients)
    inside_gradients = torch.autograd.grad((samples.sdf * inside).sum(), parameters[:1])
    assert inside_gradients[0].any()


def test_segmentation_of_an_edit_moves_the_density_and_normals_the_planes(
    tiny_generator, tiny_ws, camera
):
    edited = make_edited(tiny_generator, tiny_ws, everywhere)
    view = edited.render(edited.fused_field(), camera, with_samples=True, with_normals=True)
    for image, target in ((view.segmentation, view.samples.sdf), (view.normals, edited.ws)):
        (gradient,) = torch.autograd.grad(image.square().sum(), target, retain_graph=True)
        assert gradient.any()
