"""Whether the cameras agree with the heads: the nose, in front of the eyes, tells the view."""

from collections.abc import Mapping

import numpy as np

from training.data.doctor.camera_repairs import REPAIRS
from training.data.doctor.cameras import Cameras, camera_angles
from training.data.doctor.findings import Finding, make_finding
from training.data.doctor.geometry import Parts

_MIN_SAMPLES = 8
_MIN_FOR_UNRELATED = 16
# Two images are compared if their cameras differ by this much in the sine of the angle.
_MIN_DIFFERENCE = 0.12
_MIN_PAIRS = 12
_MAX_PAIRS = 40_000
_CLEAR_AGREEMENT = 0.7
_NO_AGREEMENT = (0.4, 0.6)
_OUTLIER_SIGMAS = 6.0
# Noses move by about 0.15 of the picture a radian; less than this is anatomy.
_MIN_RESIDUAL = 0.04


def check_poses(cameras: Cameras, parts: Mapping[str, Parts]) -> list[Finding]:
    """Compare the cameras with where the noses point; repairs are applied to `cameras`.

    A camera that moves to the right sees the nose left of the eyes' middle, a camera that moves up
    sees it lower. Over a data set the two must go together.

    Args:
        cameras: Usable cameras; changed in place where a repair is offered.
        parts: Parts of the heads.
    """
    names = [n for n in sorted(cameras) if {"eyes", "nose"} <= parts.get(n, {}).keys()]
    if len(names) < _MIN_SAMPLES:
        return []
    turn = np.array([parts[n]["nose"].x - parts[n]["eyes"].x for n in names])
    tilt = np.array([parts[n]["nose"].y - parts[n]["eyes"].y for n in names])
    findings, is_related = _check_sign(cameras, names, turn, 0, -1, "camera_mirrored")
    pitch_findings, _ = _check_sign(cameras, names, tilt, 1, 1, "camera_pitch_mirrored")
    # Individual noses differ more in length than in direction, so a weak tilt says nothing.
    findings += [finding for finding in pitch_findings if finding.code != "camera_unrelated"]
    if is_related:
        findings += _find_outliers(cameras, names, turn)
    return _merge_mirrored(findings)


def _merge_mirrored(findings: list[Finding]) -> list[Finding]:
    # A camera that is mirrored with all others and then by itself was right from the start.
    mirrored = [finding for finding in findings if finding.code == "camera_mirrored"]
    if len(mirrored) < 2:
        return findings
    names = sorted(set(mirrored[0].names) ^ set(mirrored[1].names))
    merged = make_finding("camera_mirrored", names, "the others are right")
    return [merged, *(finding for finding in findings if finding not in mirrored)]


def _check_sign(
    cameras: Cameras, names: list[str], offset: np.ndarray, axis: int, sign: int, code: str
) -> tuple[list[Finding], bool]:
    """Compare one angle with the nose's offset; return whether the two go together."""
    sines = np.sin([camera_angles(cameras[name])[axis] for name in names])
    slopes = _pairwise_slopes(sines, offset)
    if len(slopes) < _MIN_PAIRS:
        return [], False
    agreement = float((sign * slopes > 0).mean())
    message = f"{100 * agreement:.0f} % of the pairs of images agree with their cameras"
    if agreement <= 1 - _CLEAR_AGREEMENT:
        for name in cameras:
            cameras[name] = REPAIRS[code](cameras[name], {})
        return [make_finding(code, sorted(cameras), message)], True
    low, high = _NO_AGREEMENT
    if low < agreement < high and len(names) >= _MIN_FOR_UNRELATED:
        return [make_finding("camera_unrelated", message=message)], False
    return [], agreement >= _CLEAR_AGREEMENT


def _pairwise_slopes(
    x: np.ndarray,  # [N]
    y: np.ndarray,  # [N]
) -> np.ndarray:  # [P]
    """Return the slopes of lines through pairs of points that are far enough apart in x.

    Their median (Theil 1950, Sen 1968) is a slope that a minority of wrong points does not turn.
    """
    first, second = np.triu_indices(min(len(x), 280), 1)
    if len(x) > 280:
        first, second = np.random.default_rng(0).integers(0, len(x), (2, _MAX_PAIRS))
    is_apart = np.abs(x[first] - x[second]) > _MIN_DIFFERENCE
    first, second = first[is_apart], second[is_apart]
    return (y[first] - y[second]) / (x[first] - x[second])


def _find_outliers(cameras: Cameras, names: list[str], turn: np.ndarray) -> list[Finding]:
    """Find single cameras on the wrong side, and those that fit on neither side."""
    sines = np.sin([camera_angles(cameras[name])[0] for name in names])
    slope = float(np.median(_pairwise_slopes(sines, turn)))
    intercept = float(np.median(turn - slope * sines))
    residual = np.abs(turn - intercept - slope * sines)
    mirrored_residual = np.abs(turn - intercept + slope * sines)
    spread = 1.4826 * float(np.median(residual))
    limit = max(_OUTLIER_SIGMAS * spread, _MIN_RESIDUAL)
    is_outlier = residual > limit
    is_mirrored = is_outlier & (mirrored_residual < 0.5 * limit)
    mirrored = [names[i] for i in np.flatnonzero(is_mirrored)]
    order = np.argsort(-residual)
    others = [names[i] for i in order if is_outlier[i] and not is_mirrored[i]]
    for name in mirrored:
        cameras[name] = REPAIRS["camera_mirrored"](cameras[name], {})
    findings = []
    if mirrored:
        findings.append(
            make_finding("camera_mirrored", mirrored, f"{len(mirrored)} of {len(names)} cameras")
        )
    if others:
        findings.append(make_finding("camera_outlier", others))
    return findings
