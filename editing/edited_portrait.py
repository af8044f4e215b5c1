"""A finished edit: pictures, numbers, the head itself, and its files."""

import hashlib
import json
import logging
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.edited_generator import EditedGenerator
from editing.fusion import FusedField
from editing.options import ReportOptions
from editing.outputs import ViewPair, write_orbit, write_pictures
from editing.portrait import Portrait
from editing.receipt import Receipt
from editing.recipe import EditRecipe, save_edit
from editing.regions import PaintedView
from editing.report import write_report
from editing.views import view_source
from mate3d.atomic import atomic_files
from mate3d.generator import RenderOutput
from mate3d.outputs.visualize import make_image_grid, save_image
from torch_utils.stages import stage

if TYPE_CHECKING:
    import trimesh

_logger = logging.getLogger(__name__)

RECEIPT_FILE = "receipt.json"
_SAMPLES = "samples.png"
# Names of all files that an edit and its script write; those of further painted views end in _2 and
# so on.
WRITTEN_FILES = re.compile(
    r"((source|edited|normals|(source|target|edited)_mask)(_\d+)?|views|samples|preview)\.png|"
    r"orbit\.mp4|report\.html|receipt\.json|edit\.safetensors|edit_state(_\d+)?\.pt|"
    r"recipe\.yaml|config\.yaml|log\.txt|git_revision\.txt"
)
_MASKS = "*_mask*.png"


@dataclass(frozen=True)
class EditedPortrait:
    """A finished edit.

    Args:
        edited: Source and edited head.
        portrait: The head with all its edits; the last one is this.
        painted_views: Painted views, and source and edited head as seen there.
        other_views: Source and edited head at fixed angles.
        receipt: Measurements.
        history: Loss terms of each step.
        exact: Render whole views.
        started: `time.perf_counter()` when the edit began.
        sample_images: Edited pictures of all samples, each [1, 3, H, W]; empty if there is one.
        generator_name: Name of the generator, for the recipe.
    """

    edited: EditedGenerator
    portrait: Portrait
    painted_views: Sequence[tuple[PaintedView, ViewPair]]
    other_views: Sequence[ViewPair]
    receipt: Receipt
    history: list[dict[str, float]]
    exact: bool
    started: float
    sample_images: tuple[Tensor, ...] = ()
    generator_name: str = ""

    @property
    def image(self) -> Tensor:  # [1, 3, H, W] in -1..1
        """The edited head at the first painted view."""
        return self.painted_views[0][1].edited.image

    @property
    def source_image(self) -> Tensor:  # [1, 3, H, W] in -1..1
        """The source at the same view."""
        return self.painted_views[0][1].source.image

    @property
    def field(self) -> FusedField:
        """The edited head, a field like any other."""
        with torch.no_grad():
            return self.edited.fused_field()

    @torch.no_grad()
    def render(self, *, yaw_degrees: float = 0.0, pitch_degrees: float = 0.0) -> RenderOutput:
        """Render a view of the edited head."""
        rig, angles = self.edited.generator.config.camera_rig, (yaw_degrees, pitch_degrees)
        camera = rig.make_camera(*map(math.radians, angles)).to(self.edited.source_ws)
        return view_source(self.edited, camera, exact=self.exact).fused(self.field)

    def mesh(self, resolution: int = 256) -> "trimesh.Trimesh":
        """Return the edited head's surface with normals and colours; see `extract_mesh`."""
        from mate3d.outputs.mesh import extract_mesh

        return extract_mesh(self.field, self.edited.generator.config.box_size, resolution)

    def write(self, folder: str | Path, options: ReportOptions | None = None) -> Receipt:
        """Write all results, and return the receipt with the seconds of everything.

        No file is replaced before all are complete. A mask in the folder that was painted since an
        edit wrote it gets another name instead of being replaced.
        """
        options, folder = options or ReportOptions(), Path(folder)
        label_set = self.edited.generator.label_set
        with atomic_files(folder) as temporary:
            write_orbit(
                temporary / "orbit.mp4",
                self.edited,
                num_frames=options.num_orbit_frames,
                fps=options.orbit_fps,
                exact=self.exact,
            )
            with stage("Writing the report"):
                write_pictures(temporary, self.painted_views, self.other_views, label_set)
                if self.sample_images:
                    images = torch.cat([self.source_image, *self.sample_images])
                    grid = make_image_grid(images, min(len(images), 5))
                    save_image(temporary / _SAMPLES, grid)
                portrait, steps = self.portrait, list(self.portrait.steps)
                recipe = EditRecipe(portrait.name, self.generator_name, "", ())
                save_edit(temporary, portrait.generator, recipe, portrait.ws, steps)
                total = round(time.perf_counter() - self.started, 1)
                receipt = replace(
                    self.receipt,
                    seconds=self.receipt.seconds | {"total": total},
                    masks_sha256={path.name: _digest(path) for path in temporary.glob(_MASKS)},
                )
                (temporary / RECEIPT_FILE).write_text(receipt.to_json())
                write_report(temporary / "report.html", receipt, self.history)
            _set_paintings_aside(folder, [path.name for path in temporary.glob(_MASKS)])
        if not self.sample_images:
            (folder / _SAMPLES).unlink(missing_ok=True)
        return receipt


def read_receipt(folder: str | Path) -> dict:
    """Return the receipt in a folder as plain values; empty if there is none of this format."""
    try:
        receipt = json.loads((Path(folder) / RECEIPT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return receipt if "masks_sha256" in receipt else {}


def _set_paintings_aside(folder: Path, names: Sequence[str]) -> None:
    """Rename the masks that are not as the folder's receipt says that they were written."""
    known = read_receipt(folder).get("masks_sha256", {})
    for path in (folder / name for name in names):
        if path.exists() and _digest(path) != known.get(path.name):
            free = (path.with_stem(f"{path.stem}_painted{n or ''}") for n in count())
            kept = next(each for each in free if not each.exists())
            path.rename(kept)
            _logger.warning("%s was painted on; kept as %s", path, kept.name)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
