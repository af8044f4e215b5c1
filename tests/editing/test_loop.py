"""The loop renders, guides and steps; variants are options."""

import dataclasses
import math

import pytest
import torch

from editing.edited_generator import EditedGenerator
from editing.loop import EditLoop, EditTarget
from editing.options import (
    EditOptions,
    GuidanceOptions,
    LossWeights,
    ObjectiveOptions,
    ReportOptions,
)
from editing.regions import ClassRegion, PaintedView, RegionOptions, everywhere
from mate3d.cameras import make_camera
from mate3d.errors import UserError
from mate3d.labels import segmentation_to_label_map
from tests.editing.conftest import PAPER, SCALE

OPTIONS = dataclasses.replace(PAPER, num_steps=3, num_geometry_points=64)


def make_loop(generator, ws, camera, guidance, options=OPTIONS, region=everywhere, seed=0):
    edited = EditedGenerator(generator, ws, region, learnable=options.learnable)
    with torch.no_grad():
        view = edited.render(edited.source_field(), camera)
    source = segmentation_to_label_map(view.segmentation)
    painted = source.clone()
    painted[0, 8:24, 8:24] = 2
    views = (PaintedView(camera, source, painted),)
    embeds = guidance and guidance.encode_prompt("x")
    target = EditTarget(views, (2,), SCALE, guidance, embeds)
    return EditLoop(edited, target, options, seed=seed)


def with_options(**values):
    return dataclasses.replace(OPTIONS, **values)


def test_mask_loss_falls(tiny_generator, tiny_ws, camera):
    weights = LossWeights(distillation=0, preservation=0, feature_preservation=0)
    options = with_options(num_steps=25, ws_lr=0.05, weight_lr=0.02, weights=weights)
    history = make_loop(tiny_generator, tiny_ws, camera, None, options).run()
    assert len(history) == 25
    assert history[-1]["mask_raw"] < 0.8 * history[0]["mask_raw"]
    assert history[-1]["mask"] < history[0]["mask"]


def test_surfaces_are_soft_for_the_first_share_of_the_steps(tiny_generator, tiny_ws, camera):
    weights = LossWeights(distillation=0)
    options = with_options(num_steps=4, soft_thickness=0.5, soft_share=0.5, weights=weights)
    loop = make_loop(tiny_generator, tiny_ws, camera, None, options)
    soft_source = loop.source_views[0].output.image
    loop.step(0.25)
    assert torch.equal(loop.source_views[0].output.image, soft_source)
    loop.step(0.5)
    with torch.no_grad():
        sharp_source = loop.edited.render(loop.edited.source_field(), camera).image
    torch.testing.assert_close(loop.source_views[0].output.image, sharp_source)
    assert (soft_source - sharp_source).abs().max() > 1e-3


def test_surfaces_that_are_soft_already_stay_as_they_are(tiny_generator, tiny_ws, camera):
    own = SCALE.thickness / SCALE.size
    for thickness, is_softened in ((own / 2, False), (None, False), (2 * own, True)):
        options = with_options(soft_thickness=thickness, weights=LossWeights(distillation=0))
        loop = make_loop(tiny_generator, tiny_ws, camera, None, options)
        assert (loop.softness is not None) == is_softened


def test_same_seed_gives_the_same_edit(tiny_generator, tiny_ws, camera, fake_guidance):
    first = make_loop(tiny_generator, tiny_ws, camera, fake_guidance)
    second = make_loop(tiny_generator, tiny_ws, camera, fake_guidance)
    other = make_loop(tiny_generator, tiny_ws, camera, fake_guidance, seed=1)
    assert first.run() == second.run()
    assert torch.equal(first.edited.ws, second.edited.ws)
    other.run()
    assert not torch.equal(first.edited.ws, other.edited.ws)


def test_only_the_learnable_part_changes(tiny_generator, tiny_ws, camera, fake_guidance):
    before = {name: value.clone() for name, value in tiny_generator.state_dict().items()}
    options = with_options(learnable=("backbone.blocks.b8.to_image",))
    loop = make_loop(tiny_generator, tiny_ws, camera, fake_guidance, options)
    loop.run()
    assert torch.equal(loop.edited.ws, tiny_ws)
    for name, value in tiny_generator.state_dict().items():
        assert torch.equal(value, before[name]), name
    changed = {
        name
        for name, value in loop.edited.backbone.state_dict().items()
        if not torch.equal(value, before[f"backbone.{name}"])
    }
    assert changed and all(name.startswith("blocks.b8.to_image") for name in changed)
    assert set(loop.edited.edit_state()) >= {f"backbone.{name}" for name in changed}


def test_condition_is_the_edited_mask_the_sources_or_nothing(
    tiny_generator, tiny_ws, camera, fake_guidance
):
    controls = {}
    for condition in ("updated", "fixed", "none"):
        options = with_options(condition=condition)
        loop = make_loop(tiny_generator, tiny_ws, camera, fake_guidance, options)
        with torch.no_grad():
            loop.edited.ws.add_(torch.randn_like(tiny_ws))
        fake_guidance.controls.clear()
        loop.step(0.0)
        (controls[condition],) = fake_guidance.controls
    assert controls["none"] is None
    assert controls["updated"].shape == (1, 3, 32, 32)
    assert 0 <= controls["updated"].min() < controls["updated"].max() <= 1
    assert not torch.equal(controls["updated"], controls["fixed"])
    fake_guidance.controls.clear()
    make_loop(tiny_generator, tiny_ws, camera, fake_guidance).step(0.0)
    assert torch.equal(fake_guidance.controls[0], controls["fixed"])


@pytest.mark.parametrize("blend", ["image", "normals", "blended"])
def test_blend_decides_what_the_prior_moves(tiny_generator, tiny_ws, camera, fake_guidance, blend):
    weights = LossWeights(0, 0, 1.0, 0, 0, 0, 0, 0)
    options = with_options(weights=weights, distillation=ObjectiveOptions(blend=blend))
    loop = make_loop(tiny_generator, tiny_ws, camera, fake_guidance, options)
    texture_weights = {
        name: value.clone()
        for name, value in loop.edited.backbone.named_parameters()
        if "to_image.texture" in name
    }
    loop.run()
    after = dict(loop.edited.backbone.named_parameters())
    is_moved = any(not torch.equal(after[name], value) for name, value in texture_weights.items())
    assert is_moved == (blend != "normals")


@pytest.mark.parametrize(
    "names",
    [
        ("mask", "mask_raw"),
        ("distillation",),
        ("mask_raw", "preservation"),
        ("eikonal", "sdf_consistency", "feature_preservation"),
    ],
)
def test_a_term_of_weight_zero_is_not_computed(
    tiny_generator, tiny_ws, camera, fake_guidance, names
):
    options = with_options(weights=LossWeights(**dict.fromkeys(names, 0.0)))
    terms = make_loop(tiny_generator, tiny_ws, camera, fake_guidance, options).step(0.0)
    assert not set(names) & set(terms)
    assert {"mask", "mask_raw", "distillation"} - set(names) <= set(terms)


def test_an_edit_that_can_change_nothing_is_refused(tiny_generator, tiny_ws, camera, fake_guidance):
    loop = make_loop(tiny_generator, tiny_ws, camera, fake_guidance, region=ClassRegion(()))
    with pytest.raises(UserError, match="nothing changed"):
        loop.run()
    assert torch.equal(loop.edited.ws, tiny_ws)


def test_the_prior_moves_texture_alone_unless_it_may_move_shape(
    tiny_generator, tiny_ws, camera, fake_guidance
):
    for moves_shape in (False, True):
        weights = LossWeights(0, 0, 1.0, 0, 0, 0, 0, 0)
        options = with_options(prior_moves_shape=moves_shape, weights=weights)
        loop = make_loop(tiny_generator, tiny_ws, camera, fake_guidance, options)
        loop.run()
        assert loop.edited.offsets["texture"].any()
        assert loop.edited.offsets["shape"].any() == moves_shape


def test_an_edit_without_a_finite_step_ends_with_one_line(
    tiny_generator, tiny_ws, camera, fake_guidance
):
    loop = make_loop(tiny_generator, tiny_ws, camera, fake_guidance)
    assert len(loop.run(lambda: True)) == 1  # A stop finishes the step.
    loop = make_loop(tiny_generator, tiny_ws, camera, fake_guidance)
    fake_guidance.noise_pred.fill_(float("nan"))
    with pytest.raises(UserError, match="finite"):
        loop.run()
    assert torch.equal(loop.edited.ws, tiny_ws)


def test_steps_without_finite_gradients_are_skipped_and_five_in_a_row_rewind(
    tiny_generator, tiny_ws, camera, fake_guidance, caplog
):
    loop = make_loop(tiny_generator, tiny_ws, camera, fake_guidance, with_options(num_steps=20))
    good, bad_steps, states = fake_guidance.noise_pred.clone(), {2, *range(6, 20)}, []

    def spoil() -> bool:  # Between steps.
        states.append(loop.edited.ws.detach().clone())
        is_bad = len(states) + 1 in bad_steps
        fake_guidance.noise_pred.copy_(good * (float("inf") if is_bad else 1))
        return False

    history = loop.run(spoil)
    assert len(history) == 4 and loop.num_skipped == 6 and loop.num_steps == 10
    assert torch.equal(states[0], states[1]) and not torch.equal(states[1], states[2])
    # The last step that was taken led to what follows, so it is undone as well.
    assert torch.equal(loop.edited.ws, states[3])
    assert all(math.isfinite(value) for terms in history for value in terms.values())
    assert "ending with the state before" in caplog.text


def test_a_gradient_far_above_the_median_is_clipped(tiny_generator, tiny_ws, camera):
    weights = LossWeights(distillation=0)
    loop = make_loop(tiny_generator, tiny_ws, camera, None, with_options(weights=weights))
    loop.step(0.0)
    loop.pixel_weights = [1e6 * weight for weight in loop.pixel_weights]
    norm = torch.cat([p.grad.flatten() for p in loop.parameters]).norm()
    loop.step(0.0)
    clipped = torch.cat([p.grad.flatten() for p in loop.parameters]).norm()
    torch.testing.assert_close(clipped, 10 * norm)


def test_style_vectors_move_alone_first(tiny_generator, tiny_ws, camera, fake_guidance):
    options = with_options(num_steps=4, ws_share=0.5)
    loop = make_loop(tiny_generator, tiny_ws, camera, fake_guidance, options)
    loop.step(0.0)
    loop.step(0.25)
    assert not torch.equal(loop.edited.ws, tiny_ws)
    assert not any(offset.any() for offset in loop.edited.offsets.values())
    loop.step(0.5)
    assert all(offset.any() for offset in loop.edited.offsets.values())


def test_painted_views_take_turns(tiny_generator, tiny_ws, camera):
    weights = LossWeights(distillation=0, other_labels=0)
    loop = make_loop(tiny_generator, tiny_ws, camera, None, with_options(weights=weights))
    seen, painted = [], loop.target.views[0]
    side = make_camera(-0.4)
    target = dataclasses.replace(
        loop.target, views=(painted, dataclasses.replace(painted, camera=side))
    )
    loop = EditLoop(loop.edited, target, loop.options, seed=0)
    for view in loop.source_views:
        fused = view.fused
        view.fused = lambda *args, at=view, of=fused, **kwargs: (
            seen.append(at.camera),
            of(*args, **kwargs),
        )[1]
    for _ in range(3):
        loop.step(0.0)
    assert [torch.equal(one, side) for one in seen] == [False, True, False]


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (EditOptions, {"num_steps": 0}),
        (EditOptions, {"soft_thickness": 0.0}),
        (EditOptions, {"mask_loss": "l2"}),
        (EditOptions, {"ws_lr": -1.0}),
        (EditOptions, {"outside_weight": float("nan")}),
        (EditOptions, {"num_geometry_points": 0}),
        (EditOptions, {"learnable": ()}),
        (EditOptions, {"ws_share": 0.5, "learnable": ("texture",)}),
        (EditOptions, {"yaw_range_degrees": (5.0, -5.0)}),
        (EditOptions, {"pitch_range_degrees": (-95.0, 0.0)}),
        (LossWeights, {"mask": -1.0}),
        (ObjectiveOptions, {"timestep_range": (0.5, 0.2)}),
        (ObjectiveOptions, {"final_max_timestep": 0.01}),
        (RegionOptions, {"kind": "ball"}),
        (RegionOptions, {"softness": -1.0}),
        (RegionOptions, {"reach": float("inf")}),
        (GuidanceOptions, {"precision": "float16", "controlnet": None}),
        (ReportOptions, {"num_orbit_frames": 0}),
    ],
)
def test_wrong_options_name_the_option(options, values):
    with pytest.raises(UserError, match=f"{next(iter(values))}="):
        options(**values)
