"""Small datasets in shards, whose captions tell the samples apart."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mate3d.cameras import make_camera
from mate3d.labels import CELEBAMASK_HQ
from training.data.format import DatasetWriter, image_name


def write_shards(path: Path, num_samples: int = 16, shard_size: int = 2, side: int = 8) -> Path:
    """Write samples of one colour each, captioned with their numbers."""
    with DatasetWriter(path, CELEBAMASK_HQ, shard_size=shard_size) as writer:
        for index in range(num_samples):
            image = np.full((side, side, 3), index, dtype=np.uint8)
            label_map = np.full((side, side), index % 19, dtype=np.uint8)
            camera = make_camera(yaw=(index + 1) / 100)[0].tolist()
            writer.add(image_name(index), image, label_map, camera, str(index))
    return path


def change_member(shard: Path, suffix: str, content: bytes) -> str:
    """Replace the first member of that suffix and index the shard anew; return its name."""
    with tarfile.open(shard) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]
    changed = next(member for member, _ in members if member.name.endswith(suffix))
    rewrite(shard, [(m, content if m is changed else data) for m, data in members])
    (shard.parent / "index.json").unlink(missing_ok=True)
    return changed.name


def rewrite(shard: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Write a shard of these members."""
    with tarfile.open(shard, "w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
