"""Findings about cameras, and notes on the data set as a whole."""

from training.data.doctor.kind import LEAVES_OUT, Kind

# Ordered as a report lists them: first what hides other things.
CAMERA_KINDS = (
    Kind(
        "camera_invalid",
        "error",
        "cameras that are not 25 finite numbers",
        "A camera is the 16 numbers of the camera-to-world matrix and the 9 of the intrinsics.",
        LEAVES_OUT,
    ),
    Kind(
        "camera_transposed",
        "error",
        "camera matrices stored column by column",
        "The position is in the last row instead of the last column; some programs store matrices "
        "this way.",
        "transposes the matrices",
    ),
    Kind(
        "camera_inverted",
        "error",
        "world-to-camera matrices",
        "The matrices lead from the world to the camera; they must lead from the camera to the "
        "world.",
        "inverts the matrices",
    ),
    Kind(
        "camera_not_rotation",
        "error",
        "camera matrices that are no rotations",
        "The axes are not of length 1 and at right angles, or the matrix mirrors.",
        LEAVES_OUT,
    ),
    Kind(
        "camera_opengl",
        "error",
        "cameras with OpenGL axes",
        "The cameras look away from the head; with y up and z backward, as in OpenGL and Blender, "
        "they look at it.",
        "negates the second and third axis",
    ),
    Kind(
        "camera_world_axes",
        "error",
        "cameras in another world",
        "Frontal portraits must be seen from +z with y up; these cameras stand elsewhere.",
        "rotates the world",
    ),
    Kind(
        "camera_up_down",
        "error",
        "cameras upside down",
        "The camera's downward axis points up.",
        "turns them by 180 degrees about their view",
    ),
    Kind(
        "camera_mirrored",
        "error",
        "cameras on the wrong side",
        "Where the nose points in the mask, the camera must be on the other side; here the sign of "
        "the yaw is exchanged.",
        "mirrors the cameras",
    ),
    Kind(
        "camera_pitch_mirrored",
        "error",
        "cameras at the wrong height",
        "Heads seen from above have cameras below and the other way round: the sign of the pitch "
        "is exchanged.",
        "mirrors the cameras vertically",
    ),
    Kind(
        "camera_unrelated",
        "error",
        "cameras do not fit the images",
        "Where the nose points has nothing to do with where the cameras stand; usually cameras "
        "were assigned to images by order and not by name.",
    ),
    Kind(
        "camera_outlier",
        "warning",
        "cameras that do not fit their image",
        "The nose points elsewhere than the camera says, compared with the other images.",
    ),
    Kind(
        "camera_pixels",
        "error",
        "intrinsics in pixels",
        "Focal length and principal point must be divided by the image size.",
        "divides by the image size",
    ),
    Kind(
        "camera_intrinsics",
        "error",
        "implausible intrinsics",
        "The focal length must be positive, the principal point near (0.5, 0.5), the last row "
        "(0, 0, 1).",
        LEAVES_OUT,
    ),
    Kind(
        "camera_distance",
        "warning",
        "cameras at an implausible distance",
        "The head is about half a unit large and cameras are about 2.7 units away; other distances "
        "are usually another unit of length.",
        "scales all cameras to the usual distance; leaves single ones out",
    ),
    Kind(
        "camera_off_target",
        "warning",
        "cameras that do not look at the head",
        "The head is at the origin; these cameras look more than 20 degrees past it.",
    ),
    Kind(
        "camera_identical",
        "warning",
        "all cameras are the same",
        "Without different views there is nothing to learn a shape from; often a placeholder.",
    ),
    Kind(
        "few_images",
        "note",
        "few images",
        "A generator from scratch needs thousands; fine for a test or for fine-tuning.",
    ),
    Kind("class_never", "note", "classes that never occur", "The generator cannot learn them."),
    Kind(
        "pose_imbalance",
        "note",
        "uneven poses",
        "Most heads look the same way; rare views will look worse. Rebalancing helps.",
    ),
)
