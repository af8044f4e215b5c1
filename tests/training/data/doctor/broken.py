"""A dataset in a folder that tests break in a controlled way, and what the doctor must say."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mate3d.labels import LabelSet, save_label_map
from training.data.format import DatasetWriter, open_dataset


class OpenDataset:
    """Direct access to the files of a dataset in a folder."""

    def __init__(self, path: Path, label_set: LabelSet):
        self.path = path
        self.label_set = label_set
        self.index: dict[str, Any] = json.loads((path / "dataset.json").read_text())
        self.names = sorted(name for name, _ in self.index["labels"])

    def turned_names(self) -> list[str]:
        """List the items that are seen from the side."""
        return [name for name, camera in self.index["labels"] if abs(camera[3]) > 1]

    def image_file(self, name: str) -> Path:
        return self.path / "images" / name

    def mask_file(self, name: str) -> Path:
        return self.path / "masks" / name

    def image(self, name: str) -> Image.Image:
        with Image.open(self.image_file(name)) as image:
            image.load()
        return image

    def mask(self, name: str) -> np.ndarray:
        with Image.open(self.mask_file(name)) as mask:
            return np.array(mask)

    def cameras(self) -> np.ndarray:  # [N, 25]
        return np.array([camera for _, camera in sorted(self.index["labels"])])

    def change_masks(self, names: list[str], change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Rewrite masks as palette PNGs of ids."""
        for name in names:
            save_label_map(self.mask_file(name), change(self.mask(name)), self.label_set)

    def save_grey_masks(
        self, names: list[str], change: Callable[[np.ndarray], np.ndarray], **options: Any
    ) -> None:
        """Rewrite masks without a palette."""
        for name in names:
            Image.fromarray(change(self.mask(name))).save(self.mask_file(name), **options)

    def change_colors(self, names: list[str], change: Callable[[Image.Image], Image.Image]) -> None:
        """Rewrite masks as pictures in the palette's colours."""
        palette = np.array(self.label_set.palette, dtype=np.uint8)
        for name in names:
            change(Image.fromarray(palette[self.mask(name)])).save(self.mask_file(name))

    def change_images(self, names: list[str], change: Callable[[Image.Image], Image.Image]) -> None:
        """Rewrite images."""
        for name in names:
            change(self.image(name)).save(self.image_file(name), format="PNG")

    def change_cameras(
        self, names: list[str], change: Callable[[np.ndarray, np.ndarray], Any]
    ) -> None:
        """Rewrite cameras from pose [4, 4] and intrinsics [3, 3]."""
        for entry in self.index["labels"]:
            if entry[0] in names:
                values = np.array(entry[1])
                pose, intrinsics = change(values[:16].reshape(4, 4), values[16:].reshape(3, 3))
                entry[1] = [*np.ravel(pose).tolist(), *np.ravel(intrinsics).tolist()]
        self.save_index()

    def save_index(self) -> None:
        (self.path / "dataset.json").write_text(json.dumps(self.index))


@dataclass(frozen=True)
class Fault:
    """One fault: how to make it, and what the doctor must say."""

    code: str  # the finding that must be there
    # Breaks the items of some names; may return the names that the finding must list instead.
    break_data: Callable[[OpenDataset, list[str]], Iterable[str] | None]
    number: int | None = None  # of the first items that are broken; None breaks all
    kind: str = "cats"  # which clean dataset is broken
    follows: tuple[str, ...] = ()  # findings that the fault causes besides, and rightly so
    # Errors and warnings that are left after all repairs; None if nothing can be written at all.
    remains: tuple[str, ...] | None = ()
    mask_error: float = 0.0  # share of a repaired mask that may differ from the sound one


def swap_values(values: np.ndarray, *pairs: tuple[int, int]) -> np.ndarray:
    """Exchange values pairwise."""
    table = np.arange(256, dtype=np.uint8)
    for first, second in pairs:
        table[[first, second]] = second, first
    return table[values]


def copy_dataset(source: Path, target: Path, **options: Any) -> Path:
    """Write the items of a dataset, with the options of `DatasetWriter`."""
    files, index = open_dataset(source)
    with DatasetWriter(target, index.label_set, **options) as writer:
        for name, camera in zip(index.names, index.cameras, strict=True):
            contents = files.read(f"images/{name}"), files.read(f"masks/{name}")
            writer.add_encoded(name, *contents, camera.tolist(), "a caption")
    return target
