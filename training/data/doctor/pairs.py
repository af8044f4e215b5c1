"""Pairing of images, masks, cameras and captions by name."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from posixpath import basename, splitext

from training.data.doctor.findings import Notes
from training.data.doctor.index import RawIndex
from training.data.format import INDEX_NAME
from training.data.format.layout import is_safe_name

Files = tuple[str | None, str | None]  # image and mask; None for one that is missing

_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Pairs:
    """The parts of each item, by the image's name if there is an image."""

    files: Mapping[str, Files]
    cameras: Mapping[str, tuple[float, ...]]  # possibly malformed
    captions: Mapping[str, str]


def pair_files(file_names: Iterable[str], index: RawIndex, notes: Notes) -> Pairs:
    """Pair images, masks, cameras and captions by name.

    Parts whose names differ only in extension, prefix, slashes or case are also paired, with a
    finding, so that a naming mistake does not hide everything else.
    """
    images, masks, stray = _sort_files(file_names)
    names = {_output_name(name): name for name in images}
    texts = (index.entries or {}).get("captions", {})
    mask_of, lone_masks = _match(names, masks, notes)
    camera_of, lone_cameras = _match(names, index.cameras, notes)
    caption_of, lone_captions = _match(names, texts, notes)
    files: dict[str, Files] = {_output_name(name): (None, masks[name]) for name in lone_masks}
    files |= {name: (images[raw], masks.get(mask_of.get(name))) for name, raw in names.items()}
    for name in (*files, *stray):
        if not is_safe_name(name):
            notes.add("name_unsafe", name)
    for name, raw in names.items():
        if not _is_png(raw):
            notes.add("image_format", name, f"{splitext(raw)[1]} file")
        if texts and not texts.get(caption_of.get(name), "").strip():
            notes.add("caption_missing", name)
    for name in (*stray, *lone_captions):
        notes.add("stray_files", name, "caption" if name in lone_captions else "")
    for name in sorted({*files, *lone_cameras}):
        image, mask = files.get(name, (None, None))
        has_camera = name in camera_of or name in lone_cameras or index.entries is None
        parts = {"image": image, "mask": mask, "camera": has_camera}
        missing = [part for part, is_there in parts.items() if not is_there]
        if missing:
            notes.add("unpaired", name, f"no {' and no '.join(missing)}")
    if not images:
        notes.say("unpaired", "no images")
    return Pairs(
        files=dict(sorted(files.items())),
        cameras={name: index.cameras[raw] for name, raw in camera_of.items()},
        captions={name: texts[raw] for name, raw in caption_of.items()},
    )


def _sort_files(file_names: Iterable[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the image files in images/ and masks/ by name, and all other files."""
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    stray: list[str] = []
    # PNG files first, so that copies in other formats count as stray.
    for file in sorted(file_names, key=lambda name: (not _is_png(name), name)):
        folder, _, name = file.partition("/")
        parts = {"images": images, "masks": masks}.get(folder)
        # macOS leaves a "._" file beside each file on foreign file systems.
        is_picture = name.lower().endswith(_PICTURE_SUFFIXES) and "/._" not in file
        is_copy = not _is_png(name) and _output_name(name) in (parts or ())
        if parts is not None and is_picture and not is_copy:
            parts[name] = file
        elif file != INDEX_NAME:
            stray.append(file)
    return images, masks, stray


def _is_png(name: str) -> bool:
    return name.lower().endswith(".png")


def _output_name(name: str) -> str:
    """Return an image's name in the output, with the suffix of a PNG."""
    return name if _is_png(name) else f"{splitext(name)[0]}.png"


def _match(
    names: Mapping[str, str], others: Collection[str], notes: Notes
) -> tuple[dict[str, str], list[str]]:
    """Return the matching other part of each image, and the unmatched parts."""
    matched = {
        name: other for name, raw in names.items() for other in (name, raw) if other in others
    }
    left_over = sorted(set(others) - set(matched.values()))
    for key in (_loose_key, _base_key):
        # Keys shared by several names are ambiguous.
        counts = Counter(map(key, names)), Counter(map(key, others))
        place = {key(name): name for name in names if name not in matched}
        for other in list(left_over):
            name = place.get(key(other))
            if name and all(count[key(other)] == 1 for count in counts):
                matched[name] = other
                left_over.remove(other)
                notes.add("name_mismatch", name)
    return matched, left_over


def _loose_key(name: str) -> str:
    path = name.replace("\\", "/").removeprefix("./").lower()
    return splitext(path.removeprefix("images/").removeprefix("masks/"))[0]


def _base_key(name: str) -> str:
    return basename(_loose_key(name))
