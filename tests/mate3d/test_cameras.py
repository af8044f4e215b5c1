"""Cameras of a rig, inverted matrices, and the latents of seeds."""

import numpy as np
import pytest
import torch

from mate3d.camera_checks import are_inverted, split_camera
from mate3d.cameras import CameraRig, make_camera, unpack_camera
from mate3d.errors import UserError
from mate3d.network.mapping import latents_from_seeds


def test_rig_looks_at_its_target_from_its_radius():
    rig = CameraRig(radius=2.5, target=(0.0, 0.1, 0.2), focal=3.0)
    pose, intrinsics = unpack_camera(rig.make_camera(torch.tensor([-0.4, 0.0, 0.6]), 0.1))
    position, forward = pose[:, :3, 3], pose[:, :3, 2]
    to_target = torch.tensor(rig.target) - position
    torch.testing.assert_close(position.norm(dim=1), torch.full((3,), 2.5))
    torch.testing.assert_close(to_target / to_target.norm(dim=1, keepdim=True), forward)
    torch.testing.assert_close(intrinsics[0, 0, 0], torch.tensor(3.0))


def test_inverted_matrices_are_told_even_if_they_look_a_little_past_the_origin():
    for target in ((0.0, 0.0, 0.0), (0.0, 0.0, 0.2)):
        cameras = make_camera(torch.linspace(-1, 1, 9), target=target).double().numpy()
        poses = split_camera(cameras)[0]
        assert are_inverted(np.linalg.inv(poses)) and not are_inverted(poses)
    assert not are_inverted(np.linalg.inv(poses[:4]))
    assert not are_inverted(np.repeat(poses[:1], 9, axis=0))


def test_latent_of_a_seed_is_the_legacy_draw_whatever_else_is_drawn():
    together = latents_from_seeds([666, 3], 16)
    expected = np.random.RandomState(666).randn(1, 16).astype(np.float32)
    np.testing.assert_array_equal(together[:1].numpy(), expected)
    torch.testing.assert_close(together[1:], latents_from_seeds([3], 16), rtol=0, atol=0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(UserError, match=f"seed={seed}"):
        latents_from_seeds([seed], 4)
