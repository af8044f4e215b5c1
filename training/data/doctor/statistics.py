"""Numbers about a data set."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mate3d.labels import LabelSet
from training.data.doctor.cameras import Cameras, camera_angles
from training.data.doctor.examination import ItemFacts
from training.data.doctor.findings import ClassFrequency, Statistics
from training.data.doctor.masks import Masks
from training.data.doctor.pairs import Pairs


def collect_statistics(
    pairs: Pairs,
    items: Sequence[ItemFacts],
    masks: Masks,  # that could be understood
    cameras: Cameras,  # usable ones, repaired
    label_set: LabelSet | None,
) -> Statistics:
    """Count and average."""
    values = np.array(list(cameras.values())).reshape(-1, 25)
    yaws, pitches = camera_angles(values)
    distances = np.linalg.norm(values[:, [3, 7, 11]], axis=1)
    classes = label_set.class_names if label_set and masks else ()
    areas = np.array([sums[:, 0] for sums in masks.values()])  # [N, K]
    return Statistics(
        num_images=sum(image is not None for image, _ in pairs.files.values()),
        num_masks=sum(mask is not None for _, mask in pairs.files.values()),
        num_cameras=len(pairs.cameras),
        num_captions=sum(bool(text.strip()) for text in pairs.captions.values()),
        num_examined=len(items),
        sizes=tuple(Counter(item.size for item in items if item.size).most_common()),
        class_frequencies=tuple(
            ClassFrequency(name, float((areas[:, i] > 0).mean()), float(areas[:, i].mean()))
            for i, name in enumerate(classes)
        ),
        yaws=tuple(yaws.tolist()),
        pitches=tuple(pitches.tolist()),
        distance=float(np.median(distances)) if cameras else None,
        focal=float(np.median(values[:, 16])) if cameras else None,
    )
