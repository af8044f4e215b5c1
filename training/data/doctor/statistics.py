"""Numbers about a data set, and the notes that follow from them."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mate3d.labels import LabelSet
from training.data.doctor.cameras import Cameras, camera_angles, camera_distance
from training.data.doctor.examination import ItemFacts
from training.data.doctor.findings import ClassFrequency, Kind, Notes, Statistics
from training.data.doctor.masks import Shapes
from training.data.doctor.pairs import Pairs

STATISTICS_KINDS = (
    Kind(
        "few_examples",
        "note",
        "few images, of some classes or of some poses",
        "A generator from scratch needs thousands, and cannot learn what it never sees. Fewer are "
        "fine for a test or for fine-tuning; rebalancing helps where most heads look one way.",
    ),
)
_FEW_IMAGES = 1000
_FRONTAL = np.radians(15)
_MOSTLY = 0.8
_MIN_FOR_BALANCE = 50


def collect_statistics(
    pairs: Pairs,
    items: Sequence[ItemFacts],
    shapes: Mapping[str, Shapes],
    cameras: Cameras,
    label_set: LabelSet | None,
) -> Statistics:
    """Count and average.

    Args:
        pairs: What belongs together.
        items: Facts of the pass.
        shapes: Shapes by id of the masks that could be understood.
        cameras: Usable cameras, repaired.
        label_set: Meaning of the ids, if known.
    """
    sizes = Counter(item.size for item in items if item.size)
    angles = [camera_angles(camera) for camera in cameras.values()]
    distances = [camera_distance(camera) for camera in cameras.values()]
    focals = [camera[16] for camera in cameras.values()]
    return Statistics(
        num_images=sum(image is not None for image, _ in pairs.files.values()),
        num_masks=sum(mask is not None for _, mask in pairs.files.values()),
        num_cameras=len(pairs.cameras),
        num_captions=sum(bool(text.strip()) for text in pairs.captions.values()),
        num_examined=len(items),
        sizes=tuple(sizes.most_common()),
        class_frequencies=_count_classes(shapes, label_set),
        yaws=tuple(yaw for yaw, _ in angles),
        pitches=tuple(pitch for _, pitch in angles),
        distance=float(np.median(distances)) if distances else None,
        focal=float(np.median(focals)) if focals else None,
    )


def _count_classes(
    shapes: Mapping[str, Shapes], label_set: LabelSet | None
) -> tuple[ClassFrequency, ...]:
    if label_set is None or not shapes:
        return ()
    return tuple(
        ClassFrequency(
            name=name,
            share_of_images=sum(index in one for one in shapes.values()) / len(shapes),
            share_of_pixels=sum(one[index].area for one in shapes.values() if index in one)
            / len(shapes),
        )
        for index, name in enumerate(label_set.class_names)
    )


def note_statistics(statistics: Statistics, notes: Notes) -> None:
    """Note what is worth knowing about the numbers."""
    if 0 < statistics.num_images < _FEW_IMAGES:
        notes.say("few_examples", f"{statistics.num_images} images")
    never = [one.name for one in statistics.class_frequencies if one.share_of_images == 0]
    if never:
        notes.say("few_examples", f"none of {', '.join(never)}")
    yaws = np.array(statistics.yaws)
    if len(yaws) < _MIN_FOR_BALANCE:
        return
    frontal, right = float((np.abs(yaws) < _FRONTAL).mean()), float((yaws > 0).mean())
    if frontal > _MOSTLY:
        notes.say("few_examples", f"{100 * frontal:.0f} % within 15 degrees of frontal")
    elif max(right, 1 - right) > _MOSTLY:
        notes.say("few_examples", f"{100 * right:.0f} % of the cameras on the right")
