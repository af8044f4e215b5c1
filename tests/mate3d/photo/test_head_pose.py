"""Tests of the camera estimated from landmarks."""

import math

import numpy as np
import pytest
import torch

from mate3d.cameras import make_camera, mirror_camera, pack_camera, unpack_camera
from mate3d.errors import UserError
from mate3d.photo.canonical_heads import CAT, PERSON
from mate3d.photo.head_pose import estimate_camera
from mate3d.photo.mask_landmarks import landmarks_from_mask
from mate3d.procedural import portraits
from mate3d.procedural.tracer import render_analytic
from tests.mate3d.photo.heads import mirror_landmarks, project


def rolled(camera: torch.Tensor, roll: float) -> torch.Tensor:
    """Turn a camera about its own axis, so that its picture turns counter-clockwise."""
    cam2world, intrinsics = unpack_camera(camera)
    turn = torch.eye(4)
    turn[0, :2] = torch.tensor([math.cos(roll), -math.sin(roll)])
    turn[1, :2] = torch.tensor([math.sin(roll), math.cos(roll)])
    return pack_camera(cam2world @ turn, intrinsics)


@pytest.mark.parametrize("head", [PERSON, CAT], ids=lambda one: one.name)
@pytest.mark.parametrize(
    ("yaw", "pitch", "roll"),
    [(0, 0, 0), (0.5, 0.2, 0.1), (-0.9, -0.3, -0.3), (1.2, 0.5, 0), (0.1, -0.7, 0.4)],
)
def test_camera_that_projected_the_landmarks_is_recovered_exactly(head, yaw, pitch, roll):
    camera = rolled(make_camera(yaw, pitch), roll)
    estimate = estimate_camera(project(head.points, camera, 512), 512, head)
    found = (estimate.yaw, estimate.pitch, estimate.roll)
    np.testing.assert_allclose(found, (yaw, pitch, roll), atol=1e-4)
    np.testing.assert_allclose(estimate.camera, camera[0], atol=3e-4)
    assert estimate.residual < 1e-4


def test_free_target_and_distance_are_recovered():
    camera = make_camera(0.3, 0.1, radius=3.2, target=(0.03, -0.02, 0.04), focal=3.0)
    landmarks = project(CAT.points, camera, 256)
    estimate = estimate_camera(
        landmarks, 256, CAT, distance=None, focal=3.0, target_spread=math.inf
    )
    np.testing.assert_allclose((estimate.yaw, estimate.pitch), (0.3, 0.1), atol=1e-3)
    np.testing.assert_allclose(estimate.camera, camera[0], atol=5e-3)
    assert estimate.residual < 1e-4


def test_camera_that_must_look_at_the_origin_does():
    landmarks = project(PERSON.points, make_camera(0.2, target=(0.05, 0.0, 0.0)), 256)
    fixed = estimate_camera(landmarks, 256, PERSON, target_spread=0.0)
    free = estimate_camera(landmarks, 256, PERSON, target_spread=math.inf)
    pose = np.reshape(fixed.camera[:16], (4, 4))
    np.testing.assert_allclose(pose[:3, 3], -2.7 * pose[:3, 2], atol=1e-9)
    assert free.residual < 1e-4 < 0.005 < fixed.residual


@pytest.mark.parametrize(
    ("kind", "head", "num", "limits", "residual", "mean_error", "worst_error"),
    [
        (portraits.CAT, CAT, 12, (0.7, 0.4), 0.02, 1.5, 5),
        (portraits.PERSON, PERSON, 8, (0.6, 0.3), 0.03, 4, 9),
    ],
    ids=["cats", "people"],
)
def test_cameras_of_procedural_portraits_are_recovered_from_their_label_maps(
    kind, head, num, limits, residual, mean_error, worst_error
):
    generator = torch.Generator().manual_seed(0)
    parameters = kind.parameters_from_latent["basic"](torch.randn(num, 64, generator=generator))
    yaw, pitch = (torch.rand(2, num, generator=generator) * 2 - 1) * torch.tensor(limits)[:, None]
    render = render_analytic(kind.field(parameters), make_camera(yaw, pitch), 128, supersampling=1)
    errors = []
    for i, label_map in enumerate(render.label_map):
        landmarks = landmarks_from_mask(label_map.numpy(), kind.label_set)
        estimate = estimate_camera(landmarks, 128, head, target_spread=0.0)
        errors.append(np.degrees([estimate.yaw - yaw[i], estimate.pitch - pitch[i], estimate.roll]))
        assert estimate.residual < residual
    assert np.abs(errors).mean(axis=0).max() < mean_error
    assert np.abs(errors).max() < worst_error


def test_mirrored_landmarks_give_the_mirrored_camera():
    landmarks = project(CAT.points, rolled(make_camera(0.4, -0.2), 0.15), 128)
    landmarks["left_eye"] = tuple(np.add(landmarks["left_eye"], (2.0, -1.0)))
    estimate = estimate_camera(landmarks, 128, CAT)
    mirrored = estimate_camera(mirror_landmarks(landmarks, 128), 128, CAT)
    expected = mirror_camera(torch.tensor([estimate.camera], dtype=torch.float64))[0]
    np.testing.assert_allclose(mirrored.camera, expected, atol=1e-4)
    assert mirrored.residual == pytest.approx(estimate.residual, abs=1e-6)


def test_one_wrong_landmark_does_not_turn_the_camera():
    landmarks = project(CAT.points, make_camera(0.3, 0.1), 128)
    landmarks["left_eye"] = (10.0, 120.0)
    estimate = estimate_camera(landmarks, 128, CAT)
    np.testing.assert_allclose((estimate.yaw, estimate.pitch), (0.3, 0.1), atol=0.07)
    assert estimate.residual > 0.05


@pytest.mark.parametrize(
    ("landmarks", "distance", "named"),
    [
        (
            {"left_eye": (50.0, 50.0), "nose": (60.0, 60.0), "chin": (60.0, 90.0)},
            2.7,
            "left_eye, nose ",
        ),
        ({}, 2.7, "none"),
        *(
            (dict.fromkeys(PERSON.points, (64.0, 64.0)) | {"nose": (value, 64.0)}, 2.7, "nose")
            for value in (1e300, -1e5, math.nan, math.inf)
        ),
        (project(PERSON.points, make_camera(0.2, radius=0.8), 128), None, "distance"),
    ],
)
def test_landmarks_that_determine_no_camera_are_refused(landmarks, distance, named):
    with pytest.raises(UserError, match=named):
        estimate_camera(landmarks, 128, PERSON, distance=distance)
