"""Tests of complete portraits."""

import torch

from mate3d.cameras import unpack_camera
from mate3d.procedural.portraits import make_procedural_cat, sample_cameras


def test_same_seed_gives_the_same_portrait_in_any_batch():
    batch, alone = make_procedural_cat([3, 5, 8], 24), make_procedural_cat([5], 24)
    torch.testing.assert_close(batch.render.image[1:2], alone.render.image, rtol=0, atol=1e-3)
    assert (batch.render.label_map[1] == alone.render.label_map[0]).all()
    assert torch.equal(batch.camera[1], alone.camera[0]) and batch.captions[1] == alone.captions[0]


def test_different_seeds_give_different_portraits():
    portraits = make_procedural_cat([0, 1], 24)
    assert (portraits.render.image[0] - portraits.render.image[1]).abs().mean() > 0.05


def test_cameras_spread_over_yaw_and_pitch():
    cam2world, _ = unpack_camera(sample_cameras(400, torch.Generator().manual_seed(0)))
    x, y, z = cam2world[:, :3, 3].unbind(-1)
    yaw, pitch = torch.atan2(x, z), torch.asin(y / 2.7)
    for angle, limit in ((yaw, 0.7), (pitch, 0.4)):
        assert angle.abs().max() <= limit + 1e-5
        assert angle.min() < -0.9 * limit and angle.max() > 0.9 * limit
