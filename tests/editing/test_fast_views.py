"""Views that render what an edit can reach give the numbers of whole views, and ask for less."""

import dataclasses

import pytest
import torch

from editing.fusion import FusedField
from editing.loop import EditLoop, EditTarget
from editing.options import LossWeights, ObjectiveOptions
from editing.regions import ClassRegion, PaintedRegion, PaintedView, everywhere
from editing.views import view_source
from mate3d.cameras import make_camera
from mate3d.rendering.field import field_gradient
from tests.editing.conftest import PAPER, SCALE, make_edited

# The tiny generator's distances are spread widely, so that these reach some of its rays.
BOUNDED = ClassRegion((2,), softness=0.05, reach=-0.01)
OPTIONS = dataclasses.replace(PAPER, num_geometry_points=64)
PAINTED_VIEW = make_camera(0.3, 0.1)


def painted_region():
    repainted = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    repainted[..., 4:12, 6:14] = True
    return PaintedRegion(ClassRegion(()), PAINTED_VIEW, repainted, 0.1)


def make_loop(generator, ws, guidance, options, region):
    edited = make_edited(generator, ws, region)
    painted = torch.zeros(1, 32, 32, dtype=torch.int64)
    painted[0, 8:24, 8:24] = 2
    view = PaintedView(PAINTED_VIEW, torch.zeros_like(painted), painted)
    target = EditTarget((view,), (2,), SCALE, guidance, guidance.encode_prompt("x"))
    return EditLoop(edited, target, options, seed=0)


CASES = {
    "bounded region": (OPTIONS, BOUNDED),
    "painted frustum": (OPTIONS, painted_region()),
    "everywhere": (OPTIONS, everywhere),
    "soft surfaces": (dataclasses.replace(OPTIONS, soft_thickness=0.5), BOUNDED),
    "source's mask": (dataclasses.replace(OPTIONS, condition="fixed"), BOUNDED),
    "image alone": (
        dataclasses.replace(
            OPTIONS, condition="none", distillation=ObjectiveOptions(blend="image")
        ),
        BOUNDED,
    ),
    "silhouette": (dataclasses.replace(OPTIONS, mask_loss="silhouette"), BOUNDED),
    "raw mask": (dataclasses.replace(OPTIONS, weights=LossWeights(mask=0.0)), BOUNDED),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_whole_views(
    tiny_generator, tiny_ws, fake_guidance, case
):
    options, region = CASES[case]
    found = []
    for exact in (True, False):
        chosen = dataclasses.replace(options, exact=exact)
        loop = make_loop(tiny_generator, tiny_ws, fake_guidance, chosen, region)
        found += [loop.step(0.0), torch.cat([p.grad.flatten() for p in loop.parameters])]
    exact_terms, exact_gradient, fast_terms, fast_gradient = found
    assert fast_terms == {
        name: pytest.approx(value, rel=1e-4, abs=1e-7) for name, value in exact_terms.items()
    }
    assert exact_gradient.any()
    torch.testing.assert_close(
        fast_gradient, exact_gradient, rtol=1e-3, atol=1e-4 * exact_gradient.abs().max().item()
    )


@pytest.mark.parametrize("region", [BOUNDED, painted_region(), everywhere])
@pytest.mark.parametrize("num_fine_samples", [0, 8])
@torch.no_grad()
def test_pictures_are_those_of_whole_views(tiny_generator, tiny_ws, region, num_fine_samples):
    rendering = dataclasses.replace(
        tiny_generator.config.rendering, num_fine_samples=num_fine_samples
    )
    tiny_generator.config = dataclasses.replace(tiny_generator.config, rendering=rendering)
    edited = make_edited(tiny_generator, tiny_ws, region)
    field, camera = edited.fused_field(), make_camera(-0.4)
    pairs = []
    for exact in (True, False):
        source = view_source(edited, camera, exact=exact, with_normals=True)
        pairs.append((source.output, source.fused(field)))
    (exact_source, exact), (fast_source, fast) = pairs
    images = ("image", "image_raw", "segmentation", "segmentation_raw", "depth", "opacity")
    for name in images:
        source_pair = getattr(fast_source, name), getattr(exact_source, name)
        torch.testing.assert_close(*source_pair, rtol=1e-4, atol=1e-5)
    for name in (*images, "normals"):
        torch.testing.assert_close(getattr(fast, name), getattr(exact, name), rtol=1e-4, atol=1e-4)
    assert not torch.equal(exact.image, exact_source.image)


def test_rays_out_of_reach_show_the_sources_pixels_bit_for_bit(
    tiny_generator, tiny_ws, monkeypatch
):
    asked, ask = [], FusedField._share

    def spy(field, points, source_class_sdf):
        asked.append(points.shape[1])
        return ask(field, points, source_class_sdf)

    monkeypatch.setattr(FusedField, "_share", spy)
    edited = make_edited(tiny_generator, tiny_ws, painted_region())
    source = view_source(edited, PAINTED_VIEW, exact=False)
    view = source.fused(edited.fused_field())
    num_samples = 16 * 16 * (8 + 8)
    assert 0 < sum(asked) < 0.5 * num_samples
    is_reached = torch.zeros(256, dtype=torch.bool)
    is_reached[source.index] = True
    assert 0 < is_reached.float().mean() < 0.5
    is_same = (view.image_raw == source.output.image_raw).all(dim=1).flatten()
    assert is_same[~is_reached].all() and not is_same[is_reached].all()
    # The lower right corner is farther from the painted square than super-resolution looks.
    assert torch.equal(view.image[..., 28:, 28:], source.output.image[..., 28:, 28:])


def test_an_edit_without_reach_shows_the_source(tiny_generator, tiny_ws):
    edited = make_edited(tiny_generator, tiny_ws, ClassRegion(()))
    source = view_source(edited, PAINTED_VIEW, exact=False, with_normals=True)
    view = source.fused(edited.fused_field())
    assert len(source.index) == 0
    assert torch.equal(view.image, source.output.image)
    assert torch.equal(view.segmentation, source.output.segmentation)
    assert not view.image.requires_grad


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_gradient_inside_the_region_is_autograds(tiny_generator, tiny_ws, share):
    edited = make_edited(tiny_generator, tiny_ws, everywhere)
    points = torch.rand(1, 40, 3, generator=torch.Generator().manual_seed(0)) * 0.5 - 0.25
    shares = torch.full((1, 40, 1), share)
    found = []
    for with_autograd in (True, False):
        field = edited.fused_field()
        if with_autograd:
            at = points.clone().requires_grad_(True)
            sdf = field.source.decoder.sdf(field.shape_features(at, shares))
            (gradient,) = torch.autograd.grad(sdf.sum(), at, create_graph=True)
        else:
            gradient = field.sdf_gradient(points, shares)
        (of_ws,) = torch.autograd.grad(gradient.square().sum(), edited.ws)
        found.append((gradient.detach(), of_ws))
    torch.testing.assert_close(*(pair[0] for pair in found), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*(pair[1] for pair in found), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(found[0][0], field_gradient(edited.source_field(), points))
