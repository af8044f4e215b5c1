"""Faults of cameras."""

import numpy as np

from tests.training.data.doctor.broken import OpenDataset
from tests.training.data.doctor.fault import Names, fault

# Cameras


@fault("camera_invalid")
def _camera_of_16_numbers_and_one_with_nan(data: OpenDataset) -> Names:
    data.index["labels"][0][1] = data.index["labels"][0][1][:16]
    data.index["labels"][1][1][3] = float("nan")
    data.save_index()
    return data.names[:2]


@fault("camera_not_rotation")
def _axes_scaled(data: OpenDataset) -> Names:
    data.change_cameras(data.names[:2], lambda pose, k: (pose @ np.diag([2, 2, 2, 1.0]), k))
    return data.names[:2]


@fault("camera_not_rotation")
def _left_handed(data: OpenDataset) -> Names:
    data.change_cameras(data.names[:1], lambda pose, k: (pose @ np.diag([-1, 1, 1, 1.0]), k))
    return data.names[:1]


@fault("camera_transposed")
def _column_by_column(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (pose.T, k.T))
    return data.names


@fault("camera_inverted")
def _world_to_camera(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (np.linalg.inv(pose), k))
    return data.names


@fault("camera_opengl")
def _opengl_axes_in_all(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (pose @ np.diag([1, -1, -1, 1.0]), k))
    return data.names


@fault("camera_opengl")
def _opengl_axes_in_some(data: OpenDataset) -> Names:
    data.change_cameras(data.names[:3], lambda pose, k: (pose @ np.diag([1, -1, -1, 1.0]), k))
    return data.names[:3]


@fault("camera_world_axes")
def _world_with_y_down(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (np.diag([1, -1, -1, 1.0]) @ pose, k))
    return data.names


@fault("camera_world_axes")
def _world_with_z_up(data: OpenDataset) -> Names:
    turn = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    data.change_cameras(data.names, lambda pose, k: (turn @ pose, k))
    return data.names


@fault("camera_up_down")
def _cameras_upside_down(data: OpenDataset) -> Names:
    data.change_cameras(data.names[:5], lambda pose, k: (pose @ np.diag([-1, -1, 1, 1.0]), k))
    return data.names[:5]


@fault("camera_mirrored")
def _yaw_sign_in_all(data: OpenDataset) -> Names:
    flip = np.diag([-1, 1, 1, 1.0])
    data.change_cameras(data.names, lambda pose, k: (flip @ pose @ flip, k))
    return data.names


@fault("camera_mirrored", kind="faces")
def _yaw_sign_in_some(data: OpenDataset) -> Names:
    turned = [name for name, camera in data.index["labels"] if abs(camera[3]) > 1][:3]
    flip = np.diag([-1, 1, 1, 1.0])
    data.change_cameras(turned, lambda pose, k: (flip @ pose @ flip, k))
    return turned


@fault("camera_pitch_mirrored")
def _pitch_sign(data: OpenDataset) -> Names:
    flip = np.diag([1, -1, 1, 1.0])
    data.change_cameras(data.names, lambda pose, k: (flip @ pose @ flip, k))
    return data.names


@fault("camera_unrelated", remains=["camera_unrelated"])
def _cameras_of_other_images(data: OpenDataset) -> Names:
    cameras = [camera for _, camera in data.index["labels"]]
    order = np.random.default_rng(2).permutation(len(cameras))
    for entry, other in zip(data.index["labels"], order, strict=True):
        entry[1] = cameras[other]
    data.save_index()
    return []


@fault("camera_outlier", remains=["camera_outlier"])
def _camera_of_one_other_image(data: OpenDataset) -> Names:
    order = sorted(range(24), key=lambda i: data.index["labels"][i][1][3])
    frontal = min(order, key=lambda i: abs(data.index["labels"][i][1][3]))
    data.index["labels"][frontal][1] = data.index["labels"][order[0]][1]
    data.save_index()
    return [data.names[frontal]]


@fault("camera_pixels")
def _intrinsics_in_pixels(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (pose, np.diag([64, 64, 1]) @ k))
    return data.names


@fault("camera_pixels")
def _intrinsics_in_pixels_of_another_size(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (pose, np.diag([512, 512, 1]) @ k))
    return data.names


@fault("camera_intrinsics")
def _negative_focal_length(data: OpenDataset) -> Names:
    data.change_cameras(data.names[:2], lambda pose, k: (pose, np.diag([-1, 1, 1]) @ k))
    return data.names[:2]


@fault("camera_distance")
def _millimetres(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (_move(pose, 450.0), k))
    return data.names


@fault("camera_distance")
def _one_camera_far_away(data: OpenDataset) -> Names:
    data.change_cameras(data.names[:1], lambda pose, k: (_move(pose, 5.0), k))
    return data.names[:1]


def _move(pose: np.ndarray, factor: float) -> np.ndarray:
    pose = pose.copy()
    pose[:3, 3] *= factor
    return pose


@fault("camera_off_target", remains=["camera_off_target"])
def _looks_past_the_head(data: OpenDataset) -> Names:
    turn = np.eye(4)
    turn[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(0.5), np.sin(0.5), -np.sin(0.5), np.cos(0.5)
    data.change_cameras(data.names[:2], lambda pose, k: (pose @ turn, k))
    return data.names[:2]


@fault("camera_identical", remains=["camera_identical"])
def _one_camera_for_all(data: OpenDataset) -> Names:
    for entry in data.index["labels"]:
        entry[1] = data.index["labels"][0][1]
    data.save_index()
    return data.names
