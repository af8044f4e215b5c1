"""What a run wrote and from what: metadata.json beside its files."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mate3d.atomic import atomic_file
from mate3d.camera_paths import View
from mate3d.cameras import CameraRig
from mate3d.generation.options import GenerationOptions
from mate3d.generator import Generator

METADATA_FILE = "metadata.json"
_FORMAT_VERSION = 1


@dataclass
class FileList:
    """The files of a run, and what each shows.

    Args:
        folder: That they lie in.
        entries: One description a file, in the order of writing.
    """

    folder: Path
    entries: list[dict[str, str]] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        """Paths of all files."""
        return [self.folder / entry["file"] for entry in self.entries]

    def add(self, name: str, *, kind: str, head: str = "", view: str = "") -> Path:
        """Take a file into the list and return its path."""
        entry = {"file": name, "kind": kind, "head": head, "view": view}
        self.entries.append({key: value for key, value in entry.items() if value})
        return self.folder / name


def write_metadata(
    files: FileList,
    generator: Generator,
    options: GenerationOptions,
    *,
    rig: CameraRig,
    views: Sequence[View],
    source: str,
) -> Path:
    """Write metadata.json; it holds no times, so that a repeated run gives the same bytes.

    Args:
        files: What was written.
        generator: What made it.
        options: As the user gave them.
        rig: Cameras of the views.
        views: Listed with their 25 numbers.
        source: Where the generator came from.
    """
    card, values = generator.card.encode(), dataclasses.asdict(options)
    document = {
        "format_version": _FORMAT_VERSION,
        "generator": {
            "source": source,
            "card_sha256": hashlib.sha256(card).hexdigest() if card else None,
            "label_set": generator.config.label_set,
            "class_names": list(generator.label_set.class_names),
        },
        "device": next(generator.parameters()).device.type,
        "torch_version": torch.__version__,
        "options": {field.name: values[field.name] for field in dataclasses.fields(GenerationOptions)},
        "cameras": dataclasses.asdict(rig),
        "conditioning_camera": generator.config.camera_rig.make_camera()[0].tolist(),
        "views": [
            dataclasses.asdict(view) | {"camera": view.camera(rig)[0].tolist()} for view in views
        ],
        "files": files.entries,
    }
    path = files.folder / METADATA_FILE
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path
