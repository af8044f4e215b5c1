"""What a running edit keeps in its folder: the state that it resumes from, and a preview."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from editing.edit_state import make_state, read_state, restore, state_path, write_state
from editing.loop import EditLoop
from editing.outputs import VIEW_YAWS
from editing.recipe import weights_hash
from editing.views import SourceView, view_source
from mate3d.atomic import atomic_file
from mate3d.outputs.visualize import make_image_grid, save_image

PREVIEW_FILE = "preview.png"
# Previews of an edit whose options do not say how often to make one.
_NUM_PREVIEWS = 5
# Least seconds between two states, and the largest share of the time that writing them may take.
_STATE_SECONDS, _STATE_SHARE = 30.0, 0.02

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EditProgress:
    """Where a running edit writes states and previews, and whether it continues from a state.

    Args:
        folder: Where they are.
        request: Options that the states belong to, as JSON values.
        resumes: Continue from the states in the folder.
        preview_steps: Steps between two previews; 0 for none, None for one every fifth of the edit.
        number: Which sample this is, from 1.
    """

    folder: Path
    request: Mapping[str, Any]
    resumes: bool = False
    preview_steps: int | None = None
    number: int = 1

    def run(self, loop: EditLoop, should_stop: Callable[[], bool]) -> float:
        """Run a loop, from the state if there is one; return the seconds of its earlier steps.

        A state is written at the end, after a stop too, and from time to time before.

        Raises:
            UserError: If the state belongs to another generator, a file cannot be written, or
                `EditLoop.run` fails.
        """
        path = state_path(self.folder, self.number)
        generator_sha256 = weights_hash(loop.edited.generator)
        if self.resumes and path.is_file():
            restore(loop, read_state(path), generator_sha256)
            _logger.info("resuming after step %d of %d", loop.num_steps, loop.planned_steps)
        earlier, preview = loop.seconds, _Preview(loop, self.folder / PREVIEW_FILE)
        interval = self.preview_steps
        if interval is None:
            interval = -(-loop.options.num_steps // _NUM_PREVIEWS)
        written, cost = time.perf_counter(), 0.0

        def save() -> None:
            nonlocal written, cost
            started = time.perf_counter()
            write_state(path, make_state(loop, self.request, generator_sha256))
            written = time.perf_counter()
            cost = written - started

        def after_step() -> None:
            if interval and loop.num_steps % interval == 0 and loop.num_steps < loop.planned_steps:
                preview.write()
            if time.perf_counter() - written > max(_STATE_SECONDS, cost / _STATE_SHARE):
                save()

        loop.run(should_stop, after_step)
        save()
        return earlier


def finish_progress(folder: Path, *, is_finished: bool, largest_mib: float) -> None:
    """Remove what a folder with results needs no more: the preview, and states that are large.

    Args:
        is_finished: Whether all planned steps were taken; otherwise states stay.
        largest_mib: States of a finished edit that are larger are removed.
    """
    (folder / PREVIEW_FILE).unlink(missing_ok=True)
    states = list(folder.glob(f"{state_path(folder).stem}*.pt"))
    size = sum(path.stat().st_size for path in states) / 2**20
    if is_finished and size > largest_mib:
        for path in states:
            path.unlink()
        _logger.info("removed the state for more_steps, %.0f MiB (keep_state_mib)", size)


class _Preview:
    """A picture of the edited head as it is: the painted view and one from a side."""

    def __init__(self, loop: EditLoop, path: Path):
        self.loop, self.path = loop, path

    @cached_property
    def views(self) -> list[SourceView]:
        """The two views with sharp surfaces, unlike those of the first steps."""
        edited, painted = self.loop.edited, self.loop.target.views[0].camera
        rig = edited.generator.config.camera_rig
        sides = [rig.make_camera(yaw).to(painted) for yaw in (VIEW_YAWS[0], VIEW_YAWS[-1])]
        side = max(sides, key=lambda camera: (camera - painted).norm().item())
        return [
            view_source(edited, each, exact=self.loop.options.exact) for each in (painted, side)
        ]

    @torch.no_grad()
    def write(self) -> None:
        field = self.loop.edited.fused_field()
        images = torch.cat([view.fused(field).image for view in self.views])
        with atomic_file(self.path) as temporary:
            save_image(temporary, make_image_grid(images, len(images)))
