"""Detection of the five landmarks of a face in a photo."""

from pathlib import Path

import numpy as np

from mate3d.errors import UserError

YUNET_SOURCE = "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet"


class YuNetDetector:
    """YuNet (Wu et al. 2023) through OpenCV, an optional dependency.

    Args:
        model: The detector's ONNX file.
        min_score: Minimum confidence of a face, in 0..1.
        max_side: Photos are downscaled to this side for detection, in pixels.

    Raises:
        UserError: If OpenCV is not installed, or the file is missing or not YuNet's.
    """

    def __init__(self, model: str | Path, *, min_score: float = 0.6, max_side: int = 1024) -> None:
        try:
            import cv2
        except ImportError:
            raise UserError("face detection requires OpenCV: pip install -e '.[photos]'") from None
        if not Path(model).is_file():
            raise UserError(
                f"face detector not found: {model}; use YuNet's ONNX file from {YUNET_SOURCE}"
            )
        try:
            self._network = cv2.FaceDetectorYN.create(str(model), "", (320, 320), min_score)
        except cv2.error as error:
            reason = " ".join(str(error).split())
            raise UserError(f"face detector {model} is not YuNet's ONNX file: {reason}") from None
        self._resize, self._area = cv2.resize, cv2.INTER_AREA
        self._max_side = max_side

    def detect(
        self,
        image: np.ndarray,  # [H, W, 3] uint8 RGB
    ) -> np.ndarray | None:  # [5, 2] float64
        """Return the five points of the largest and most central face, or None if there is none."""
        height, width = image.shape[:2]
        scale = min(1.0, self._max_side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = np.ascontiguousarray(image[..., ::-1])
        if size != (width, height):
            picture = self._resize(picture, size, interpolation=self._area)
        self._network.setInputSize(size)
        faces = self._network.detect(picture)[1]
        if faces is None or len(faces) == 0:
            return None
        face = faces[main_face(faces[:, :4], size)].astype(np.float64)
        # x, y, width, height; then eyes, nose and mouth corners, starting with the left of the
        # image (the person's right); then the score.
        points = face[4:14].reshape(5, 2)
        return points * (width / size[0], height / size[1])


def main_face(
    boxes: np.ndarray,  # [N, 4] x, y, width, height
    size: tuple[int, int],
) -> int:
    """Return the index of a portrait's main face: large, and near the centre.

    Args:
        boxes: Boxes of the faces in pixels, at least one.
    """
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    away = np.linalg.norm((middles - np.array(size) / 2) / max(size), axis=1)
    # A face at the border must be about twice as large as a central one.
    return int(np.argmax(np.sqrt(boxes[:, 2] * boxes[:, 3]) * (1 - away)))
