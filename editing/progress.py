"""What a running edit keeps in its folder: the state that it resumes from, and a preview."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from editing.loop import EditLoop
from editing.outputs import VIEW_YAWS
from editing.views import SourceView, view_source
from mate3d.atomic import atomic_file
from mate3d.checkpoints.storage import load_document, save_document
from mate3d.outputs.visualize import make_image_grid, save_image

PREVIEW_FILE = "preview.png"
# Plain values of a loop.
_VALUES = "planned_steps num_steps num_skipped num_skipped_in_a_row history norms".split()
# Least seconds between two states, and multiples of the seconds that writing one took.
_LEAST_SECONDS, _LEAST_WRITES = 30.0, 50

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EditProgress:
    """Where a running edit writes states and previews, and whether it continues from a state.

    Args:
        folder: Where they are.
        request: What a state belongs to, as JSON values; stored with it, not compared.
        resumes: Continue from the states in the folder.
        preview_steps: Steps between two previews; 0 for none, None for a fifth of the steps.
        number: Which sample this is, from 1.
    """

    folder: Path
    request: Mapping[str, Any]
    resumes: bool = False
    preview_steps: int | None = None
    number: int = 1

    def run(self, loop: EditLoop, should_stop: Callable[[], bool]) -> float:
        """Run a loop, from the state if it resumes; return the seconds of the steps before it.

        A state is written at the end, after a stop too, and now and then before.

        Raises:
            UserError: If a file cannot be read or written, or `EditLoop.run` fails.
        """
        path, started, earlier = state_path(self.folder, self.number), time.perf_counter(), 0.0
        if self.resumes and path.is_file():
            restore(loop, state := load_document(path))
            earlier = state["seconds"]
            _logger.info("resuming after step %d of %d", loop.num_steps, loop.planned_steps)
        fifth, due = -(-loop.options.num_steps // 5), started + _LEAST_SECONDS
        interval = fifth if self.preview_steps is None else self.preview_steps
        views = _preview_views(loop) if interval else []

        def save() -> None:
            nonlocal due
            begun = time.perf_counter()
            more = {"request": json.dumps(self.request), "seconds": earlier + begun - started}
            write_state(path, state_of(loop) | more)
            now = time.perf_counter()
            due = now + max(_LEAST_SECONDS, _LEAST_WRITES * (now - begun))

        def after_step() -> bool:
            if interval and loop.num_steps % interval == 0 and loop.num_steps < loop.planned_steps:
                self._write_preview(loop, views)
            if time.perf_counter() > due:
                save()
            return should_stop()

        loop.run(after_step)
        save()
        return earlier

    @torch.no_grad()
    def _write_preview(self, loop: EditLoop, views: list[SourceView]) -> None:
        field = loop.edited.fused_field()
        images = torch.cat([view.fused(field).image for view in views])
        with atomic_file(self.folder / PREVIEW_FILE) as temporary:
            save_image(temporary, make_image_grid(images, len(images)))


def state_path(folder: Path, number: int = 1) -> Path:
    """Return the file of a sample's state; samples count from 1."""
    return folder / ("edit_state.pt" if number == 1 else f"edit_state_{number}.pt")


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Replace a state atomically; raises a UserError if it cannot be written."""
    with atomic_file(path) as temporary:
        save_document(temporary, state)


def state_of(loop: EditLoop) -> dict[str, Any]:
    """Return everything that the next steps depend on."""
    kept = loop.objective.kept if loop.objective else ()
    return {name: getattr(loop, name) for name in _VALUES} | {
        "parameters": [parameter.detach() for parameter in loop.parameters],
        "last_good": loop.last_good,
        "optimizer": loop.optimizer.state_dict(),
        "schedule": loop.schedule.state_dict(),
        "random": loop.generator.get_state(),
        "objective": {name: getattr(loop.objective, name) for name in kept},
    }


@torch.no_grad()
def restore(loop: EditLoop, state: Mapping[str, Any]) -> None:
    """Bring a new loop of the same edit into a state, exactly on a CPU."""
    for name in ("parameters", "last_good"):
        for tensor, saved in zip(getattr(loop, name), state[name], strict=True):
            tensor.copy_(saved)
    for name in ("optimizer", "schedule"):
        getattr(loop, name).load_state_dict(state[name])
    loop.generator.set_state(state["random"])
    vars(loop).update({name: state[name] for name in _VALUES})
    if loop.objective:
        vars(loop.objective).update(state["objective"])


def finish_progress(folder: Path, *, is_finished: bool, largest_mib: float) -> None:
    """Remove the preview, and the states of a finished edit if they are larger than that."""
    (folder / PREVIEW_FILE).unlink(missing_ok=True)
    states = list(folder.glob("edit_state*.pt"))
    size = sum(path.stat().st_size for path in states) / 2**20
    if is_finished and size > largest_mib:
        for path in states:
            path.unlink()
        _logger.info("removed the state for more_steps, %.0f MiB; see keep_state_mib", size)


def _preview_views(loop: EditLoop) -> list[SourceView]:
    """Return the painted view and one from the side that is farther, with sharp surfaces."""
    painted, rig = loop.target.views[0].camera, loop.edited.generator.config.camera_rig
    sides = [rig.make_camera(yaw).to(painted) for yaw in (VIEW_YAWS[0], VIEW_YAWS[-1])]
    side = max(sides, key=lambda camera: (camera - painted).norm().item())
    return [view_source(loop.edited, each, exact=loop.options.exact) for each in (painted, side)]
