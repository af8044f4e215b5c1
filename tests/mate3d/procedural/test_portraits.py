"""Tests of complete portraits."""

from dataclasses import replace

import pytest
import torch

from mate3d.cameras import unpack_camera
from mate3d.errors import UserError
from mate3d.procedural.portraits import (
    make_procedural_cat,
    make_procedural_person,
    render_portrait,
    sample_cameras,
)

MAKERS = [make_procedural_cat, make_procedural_person]


@pytest.mark.parametrize("make", MAKERS)
def test_same_seed_gives_the_same_portrait_in_any_batch(make):
    batch, alone = make([3, 5, 8], 24), make([5], 24)
    torch.testing.assert_close(batch.render.image[1:2], alone.render.image, rtol=0, atol=1e-3)
    assert (batch.render.label_map[1] == alone.render.label_map[0]).all()
    assert torch.equal(batch.camera[1], alone.camera[0]) and batch.captions[1] == alone.captions[0]
    assert batch.attributes[1] == alone.attributes[0]


def test_cameras_spread_over_yaw_and_pitch():
    cam2world, _ = unpack_camera(sample_cameras(400, torch.Generator().manual_seed(0)))
    x, y, z = cam2world[:, :3, 3].unbind(-1)
    yaw, pitch = torch.atan2(x, z), torch.asin(y / 2.7)
    for angle, limit in ((yaw, 0.7), (pitch, 0.4)):
        assert angle.abs().max() <= limit + 1e-5
        assert angle.min() < -0.9 * limit and angle.max() > 0.9 * limit


def test_factor_gives_the_ground_truth_of_an_edit():
    plain = make_procedural_cat([4], 32)
    edited = make_procedural_cat([4], 32, factors={"ear_size": 1.5})
    larger = replace(plain.parameters, ear_size=1.5 * plain.parameters.ear_size)
    truth = render_portrait(larger, plain.camera, 32)
    assert torch.equal(edited.render.image, truth.image)
    assert edited.attributes[0]["ear_size"] == pytest.approx(
        1.5 * plain.attributes[0]["ear_size"], rel=1e-5
    )


def test_rich_cats_differ_from_basic_ones_of_the_same_seed():
    basic, rich = make_procedural_cat([0], 16), make_procedural_cat([0], 16, variety="rich")
    assert basic.parameters.varied() == frozenset()
    assert len(rich.parameters.varied()) > 10
    assert torch.equal(basic.z, rich.z) and torch.equal(basic.camera, rich.camera)


def test_unknown_variety_is_a_mistake():
    with pytest.raises(UserError, match="'wild'.*basic or rich"):
        make_procedural_cat([0], 8, variety="wild")
