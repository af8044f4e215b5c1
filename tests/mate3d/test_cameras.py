"""Cameras of a rig and along paths, inverted matrices, and the latents of seeds."""

import math

import numpy as np
import pytest
import torch

from mate3d.camera_checks import are_inverted, split_camera
from mate3d.cameras import (
    CameraRig,
    ViewOptions,
    camera_turn,
    figure_eight_angles,
    make_camera,
    make_rig,
    make_views,
    mirror_camera,
    orbit_angles,
    unpack_camera,
    view_normals,
)
from mate3d.errors import UserError
from mate3d.network.mapping import latents_from_seeds
from mate3d.rendering.rays import sample_rays


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


def test_normals_of_a_view_are_right_up_and_towards_the_viewer():
    cameras = make_camera(torch.tensor([-0.9, 0.0, 0.5]), torch.tensor([0.3, 0.0, -0.2]))
    origins, directions = (rays.unflatten(1, (5, 5)) for rays in sample_rays(cameras, 5))
    right = directions[:, 2, 4] - directions[:, 2, 0]
    up = directions[:, 0, 2] - directions[:, 4, 2]
    to_viewer = origins[:, 2, 2]
    for axis, direction in enumerate((right, up, to_viewer)):
        normals = torch.nn.functional.normalize(direction, dim=1).view(3, 3, 1, 1)
        expected = torch.eye(3)[axis].expand(3, 3)
        torch.testing.assert_close(view_normals(normals, cameras)[:, :, 0, 0], expected)
    world = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(view_normals(world, make_camera(0.0)), world)


def test_mirrored_camera_casts_the_mirrored_rays_of_the_flipped_image():
    camera = make_camera(torch.tensor([0.4, -0.1]), 0.2, target=(0.1, 0.0, 0.2))
    # With skew and an uncentred principal point.
    camera[:, 17:19] = torch.tensor([0.1, 0.45])
    mirrored = sample_rays(mirror_camera(camera), 4)
    for own, other in zip(sample_rays(camera, 4), mirrored, strict=True):
        flipped = own.unflatten(1, (4, 4)).flip(2).flatten(1, 2)
        torch.testing.assert_close(other, flipped * torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(mirror_camera(mirror_camera(camera)), camera)


def test_a_camera_turns_from_front_to_behind_on_either_side():
    for degrees, share in ((0, 0), (30, 1 / 6), (-90, 0.5), (180, 1)):
        assert camera_turn(make_camera(math.radians(degrees), 0.2)) == pytest.approx(share)


def test_latent_of_a_seed_is_the_legacy_draw_whatever_else_is_drawn():
    together = latents_from_seeds([666, 3], 16)
    expected = np.random.RandomState(666).randn(1, 16).astype(np.float32)
    np.testing.assert_array_equal(together[:1].numpy(), expected)
    torch.testing.assert_close(together[1:], latents_from_seeds([3], 16), rtol=0, atol=0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(UserError, match=f"seed={seed}"):
        latents_from_seeds([seed], 4)


RIG = CameraRig(radius=2.5, target=(0.0, 0.0, 0.2), focal=4.0)


def _angles(options: ViewOptions) -> list[tuple[float, float]]:
    return [(view.yaw_degrees, view.pitch_degrees) for view in make_views(options)]


def test_front_is_the_rigs_own_frontal_camera():
    (view,) = make_views(ViewOptions())
    assert view.name == "yaw+0_pitch+0"
    assert torch.equal(view.camera(RIG), RIG.make_camera())


def test_grid_runs_through_yaws_then_pitches():
    options = ViewOptions(path="grid", yaws_degrees=(-20, 20), pitches_degrees=(10, 0, -12.5))
    assert _angles(options) == [(-20, 10), (20, 10), (-20, 0), (20, 0), (-20, -12.5), (20, -12.5)]
    assert make_views(options)[-1].name == "yaw+20_pitch-12.5"


def test_list_keeps_its_order_and_positive_angles_look_from_right_and_above():
    options = ViewOptions(path="list", angles_degrees=((20, 10), (-0.0, 0)))
    assert _angles(options) == [(20, 10), (0, 0)]
    first, second = make_views(options)
    assert second.name == "yaw+0_pitch+0"
    position = unpack_camera(first.camera(CameraRig()))[0][0, :3, 3]
    assert position[0] > 0.5 and position[1] > 0.3
    assert position.norm().item() == pytest.approx(2.7)


def test_orbit_lies_on_an_ellipse_with_even_steps():
    angles = orbit_angles(12, 0.5, 0.2)
    assert len(angles) == 12
    assert angles[0] == pytest.approx((0, 0.2)) and angles[3] == pytest.approx((0.5, 0))
    assert all((yaw / 0.5) ** 2 + (pitch / 0.2) ** 2 == pytest.approx(1) for yaw, pitch in angles)


def test_figure_eight_crosses_the_front_twice_and_is_symmetric():
    angles = figure_eight_angles(16, 0.4, 0.1)
    assert angles[0] == pytest.approx((0, 0)) and angles[8] == pytest.approx((0, 0))
    assert max(pitch for _, pitch in angles) == pytest.approx(0.1)
    assert max(yaw for yaw, _ in angles) == pytest.approx(0.4)
    for (yaw, pitch), (other_yaw, other_pitch) in zip(angles[1:8], angles[:8:-1], strict=True):
        assert (yaw, pitch) == pytest.approx((-other_yaw, -other_pitch))


@pytest.mark.parametrize("path", ["orbit", "figure_eight"])
def test_closed_path_has_no_jump_at_its_end(path):
    options = ViewOptions(path=path, num_frames=40, yaw_amplitude_degrees=30)
    angles = _angles(options)
    steps = [math.dist(a, b) for a, b in zip(angles, angles[1:] + angles[:1], strict=True)]
    assert steps[-1] <= max(steps[:-1]) * 1.001 and options.is_video


def test_rig_keeps_what_is_not_overridden():
    assert make_rig(ViewOptions(), RIG) == RIG
    changed = make_rig(ViewOptions(radius=3, target=(0, 0.1, 0)), RIG)
    assert changed == CameraRig(radius=3.0, target=(0.0, 0.1, 0.0), focal=4.0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"path": "spiral"}, "path=spiral"),
        ({"path": "list"}, "angles_degrees"),
        ({"path": "list", "angles_degrees": (1, 2)}, "1"),
        ({"path": "list", "angles_degrees": ((1, 2), (1, 2))}, "twice"),
        ({"angles_degrees": ((1, 2),)}, "only with path=list"),
        ({"path": "grid", "yaws_degrees": ("left",)}, r"yaws_degrees=\[left\]"),
        ({"path": "grid", "yaws_degrees": ()}, r"yaws_degrees=\[\]"),
        ({"path": "grid", "pitches_degrees": (90,)}, "90"),
        ({"path": "orbit", "yaw_amplitude_degrees": math.inf}, "inf"),
        ({"path": "orbit", "num_frames": 1}, "num_frames=1"),
        ({"radius": 0}, "radius=0"),
        ({"focal": "wide"}, "focal=wide"),
        ({"target": (0, 1)}, "target"),
    ],
)
def test_impossible_views_and_rigs_are_named(options, named):
    with pytest.raises(UserError, match=named):
        make_views(ViewOptions(**options))
