"""The complete examination of a dataset."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mate3d.errors import UserError
from mate3d.labels import LabelSet, get_mask_label_set
from torch_utils.stages import stage
from training.data.doctor.cameras import Cameras, camera_angles, check_cameras
from training.data.doctor.examination import ItemFacts, examine_item
from training.data.doctor.findings import ClassFrequency, Diagnosis, Finding, Notes, Statistics
from training.data.doctor.geometry import check_geometry
from training.data.doctor.index import read_index
from training.data.doctor.masks import Masks, check_pixels
from training.data.doctor.pairs import Pairs, pair_files
from training.data.doctor.poses import check_poses
from training.data.format import INDEX_NAME, open_files
from training.data.format.layout import IMAGE_FOLDER, MASK_FOLDER
from training.data.workers import map_by_workers

_NUM_TYPICAL = 12
_FEW_IMAGES = 1000
_FOLDERS = (IMAGE_FOLDER, MASK_FOLDER)


def check_dataset(
    path: str | Path,
    *,
    label_set: LabelSet | str | None = None,
    max_images: int | None = None,
    num_workers: int = 0,
    seed: int = 0,
) -> Diagnosis:
    """Examine a dataset, however broken.

    Args:
        path: Folder, zip or shards in the project's format; `dataset.json` may be missing or
            broken.
        label_set: Meaning of the mask ids if `dataset.json` does not specify it.
        max_images: Examine only this many items, sampled at random; all names are compared.
        num_workers: Reader processes; 0 reads in this process.
        seed: Seed of the sampling.

    Raises:
        UserError: If there is no dataset at the path, or an archive cannot be opened.
    """
    given = get_mask_label_set(label_set) if isinstance(label_set, str) else label_set
    files = open_files(path)
    file_names = files.names()
    if not any(name.startswith((INDEX_NAME, *_FOLDERS)) for name in file_names):
        raise UserError(f"{path} is not a dataset: no {INDEX_NAME}, {' or '.join(_FOLDERS)}")
    notes = Notes()
    index = read_index(files, file_names, given, notes)
    pairs = pair_files(file_names, index, notes)
    jobs = [(name, *pair) for name, pair in pairs.files.items()]
    if max_images is not None and max_images < len(jobs):
        drawn = np.random.default_rng(seed).choice(len(jobs), max_images, replace=False)
        jobs = [jobs[i] for i in sorted(drawn.tolist())]
    palette = index.label_set.palette if index.label_set else ()
    items = []
    with stage("Examining images", len(jobs)) as bar:
        for item in map_by_workers(partial(examine_item, files, palette), jobs, num_workers):
            items.append(item)
            bar.update()
    masks = check_pixels(items, index.label_set, notes)
    alignments = {item.name: item.alignment for item in items if item.alignment}
    noses = check_geometry(masks, alignments, index.label_set, notes)
    sizes = {item.name: item.size for item in items if item.size}
    cameras = check_cameras(pairs.cameras, sizes, notes)
    check_poses(cameras, noses, notes)
    statistics = _collect_statistics(pairs, items, masks, cameras, index.label_set)
    _note_what_is_rare(statistics, notes)
    findings = notes.findings()
    return Diagnosis(
        path=path,
        label_set=index.label_set,
        findings=findings,
        statistics=statistics,
        files=pairs.files,
        cameras=pairs.cameras,
        captions=pairs.captions,
        index=index.entries or {},
        typical=_choose_typical(items, findings, cameras),
    )


def _collect_statistics(
    pairs: Pairs,
    items: Sequence[ItemFacts],
    masks: Masks,  # with known ids
    cameras: Cameras,  # usable ones, repaired
    label_set: LabelSet | None,
) -> Statistics:
    """Compute the statistics of a dataset."""
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


def _note_what_is_rare(statistics: Statistics, notes: Notes) -> None:
    if 0 < statistics.num_images < _FEW_IMAGES:
        notes.say("few_examples", f"{statistics.num_images} images")
    never = [one.name for one in statistics.class_frequencies if one.share_of_images == 0]
    if never:
        notes.say("few_examples", f"none of {', '.join(never)}")


def _choose_typical(
    items: Sequence[ItemFacts], findings: Sequence[Finding], cameras: Cameras
) -> tuple[str, ...]:
    """Return items without individual faults, evenly spaced over the poses from left to right."""
    concerned = {name for finding in findings for name in finding.names}
    complete = [item.name for item in items if item.size and item.sums is not None]
    # If all items have a fault, such as of the cameras, show items anyway.
    sound = [name for name in complete if name not in concerned] or complete
    sound.sort(key=lambda name: camera_angles(cameras[name])[0] if name in cameras else 0.0)
    places = np.linspace(0, len(sound) - 1, min(_NUM_TYPICAL, len(sound))).round().astype(int)
    return tuple(sound[i] for i in places)
