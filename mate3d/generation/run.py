"""A whole run of `generate`: make heads, render views, and write all files and metadata.json."""

import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mate3d.atomic import atomic_file
from mate3d.cameras import CameraRig, View, make_rig, make_views
from mate3d.errors import UserError
from mate3d.generation.options import GenerationOptions
from mate3d.generation.rendering import (
    Head,
    HeadMaker,
    Precision,
    ViewRenderer,
    move_range,
    repeatable,
)
from mate3d.generator import Generator, RenderOutput
from mate3d.outputs.mesh import write_meshes
from mate3d.outputs.video import open_videos
from mate3d.outputs.visualize import ContactSheet, PictureMaker, save_depth_values
from torch_utils.ops.execution import DTYPES
from torch_utils.stages import stage

METADATA_FILE = "metadata.json"
_FORMAT_VERSION = 1
# Columns of a sheet with one view per head, and number of frames shown of each video.
_SHEET_COLUMNS = 8
_logger = logging.getLogger(__name__)


@dataclass
class FileList:
    """The files of a run with their descriptions.

    Args:
        entries: One description per file, in the order of writing.
    """

    folder: Path
    entries: list[dict[str, str]] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        """Paths of all files in the list."""
        return [self.folder / entry["file"] for entry in self.entries]

    def add(self, name: str, *, kind: str, head: str = "", view: str = "") -> Path:
        """Add a file to the list and return its path."""
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
    """Write metadata.json; it contains no times, so repeated runs give the same bytes.

    Args:
        views: All views; their 25 camera numbers are written.
        source: Path or hub id of the generator.
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
        "options": {
            field.name: values[field.name] for field in dataclasses.fields(GenerationOptions)
        },
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


@dataclass(frozen=True)
class Strip:
    """The content of one video, or the stills of one head.

    Args:
        name: Start of the file names.
        shots: Pairs of head and view; an interpolation makes its heads lazily.
        head: The head, unless there are several.
    """

    name: str
    shots: Iterator[tuple[Head, View]]
    head: Head | None


class GenerationRun:
    """A user's request, checked and ready to be rendered.

    Args:
        generator: Frozen generator, on the device to use.
        head: Rendered instead of the heads of seeds.

    Raises:
        UserError: If an option is out of range or not supported by this generator.
    """

    def __init__(self, generator: Generator, options: GenerationOptions, head: Head | None = None):
        config = generator.config
        options.check_generator(config)
        self.generator, self.options, self._head = generator, options, head
        self.kinds = options.picture_kinds(config)
        self.views = make_views(options.views)
        if options.interpolate and not options.views.is_video:
            self.views = self.views * options.views.num_frames
        self.rig = make_rig(options.views, config.camera_rig)
        rendering = move_range(config.rendering, self.rig, config.camera_rig)
        device = next(generator.parameters()).device
        precision = Precision(device, DTYPES[options.precision], options.exact)
        self._maker = HeadMaker(
            generator, precision, options.truncation_psi, options.truncation_cutoff
        )
        self._renderer = ViewRenderer(
            generator,
            precision,
            rendering,
            options.neural_rendering_resolution or config.neural_rendering_resolution,
            with_normals="normals" in self.kinds,
            with_segmentation="segmentation" in self.kinds,
        )
        self._pictures = PictureMaker(generator.label_set, rendering, config.resolution)
        self._sheets: dict[str, ContactSheet] = {}

    @property
    def num_views(self) -> int:
        """Number of views that `write` renders."""
        return self._num_heads * len(self.views)

    def write(
        self,
        folder: str | Path,
        *,
        source: str = "",
        on_view: Callable[[], object] = lambda: None,
    ) -> list[Path]:
        """Render and write all files, the metadata last; each file is complete or absent.

        Args:
            folder: Created if it is missing; files with the same names are replaced.
            source: Path or hub id of the generator, for the metadata.
            on_view: Called after each view, for progress.

        Raises:
            UserError: If a file cannot be written, or a head has no surface for a mesh.
        """
        files = FileList(Path(folder))
        try:
            # It would describe files that this run replaces.
            (files.folder / METADATA_FILE).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot write in {files.folder}: {error.strerror}") from error
        self._sheets = self._make_sheets()
        write_strip = self._write_video if self.options.has_videos else self._write_stills
        with repeatable(self._renderer.precision.device):
            for strip in self._strips():
                write_strip(strip, files, on_view)
                if self.options.mesh.enabled:
                    self._write_meshes(strip.head, files)
        for kind, sheet in self._sheets.items():
            with atomic_file(files.add(f"sheet_{kind}.png", kind=kind)) as temporary:
                sheet.save(temporary)
        metadata = write_metadata(
            files, self.generator, self.options, rig=self.rig, views=self.views, source=source
        )
        return [*files.paths, metadata]

    @property
    def _num_heads(self) -> int:
        mix = self.options.mix
        if self._head is not None:
            return 1
        return len(mix.shapes) * len(mix.textures) or len(self.options.heads)

    def _strips(self) -> Iterator[Strip]:
        options, mix = self.options, self.options.mix
        if options.interpolate:
            heads = self._maker.interpolated(options.heads, options.views.num_frames)
            shots = zip(heads, itertools.cycle(self.views), strict=False)
            yield Strip("interpolation", shots, None)
            return
        heads = map(self._maker.from_seed, options.heads)
        if self._head is not None:
            heads = [self._head]
        if mix.shapes:
            pairs = itertools.product(mix.shapes, mix.textures)
            heads = itertools.starmap(self._maker.mixed, pairs)
        for head in heads:
            yield Strip(head.name, zip(itertools.repeat(head), self.views, strict=False), head)

    def _write_stills(self, strip: Strip, files: FileList, on_view: Callable[[], object]) -> None:
        for head, view in strip.shots:
            output = self._renderer.render(head, view.camera(self.rig))
            for kind in self.kinds:
                name = f"{head.name}_{view.name}{_suffix(kind)}.png"
                path = files.add(name, kind=kind, head=head.name, view=view.name)
                with atomic_file(path) as temporary:
                    self._pictures.save(temporary, kind, output)
            if self.options.with_depth_values:
                name = f"{head.name}_{view.name}_depth.npy"
                path = files.add(name, kind="depth_values", head=head.name, view=view.name)
                with atomic_file(path) as temporary:
                    save_depth_values(temporary, output)
            self._add_tiles(output)
            on_view()

    def _write_video(self, strip: Strip, files: FileList, on_view: Callable[[], object]) -> None:
        path_name, options = self.options.views.path, self.options.video
        num_frames = len(self.views) * (self._num_heads if strip.head is None else 1)
        columns = _spread(num_frames)
        with ExitStack() as stack:
            appends = {}
            for kind in self.kinds:
                stem = f"{strip.name}_{path_name}{_suffix(kind)}"
                paths = [
                    files.add(f"{stem}.{suffix}", kind=kind, head=strip.name, view=path_name)
                    for suffix in options.formats
                ]
                appends[kind] = stack.enter_context(open_videos(paths, options.fps))
            for index, (head, view) in enumerate(strip.shots):
                output = self._renderer.render(head, view.camera(self.rig))
                for kind, append in appends.items():
                    append(self._pictures.frame(kind, output))
                if index in columns:
                    self._add_tiles(output)
                on_view()

    def _write_meshes(self, head: Head, files: FileList) -> None:
        with stage(f"Meshes of {head.name}"):
            paths = write_meshes(
                files.folder,
                head.name,
                head.field,
                self.options.mesh,
                box_size=self.generator.config.box_size,
                label_set=self.generator.label_set,
            )
        for path in paths:
            files.add(path.name, kind="mesh", head=head.name)

    def _make_sheets(self) -> dict[str, ContactSheet]:
        options = self.options
        if options.has_videos:
            columns = len(_spread(self.num_views if options.interpolate else len(self.views)))
        elif len(self.views) > 1:
            columns = len(self.views)
        else:
            columns = len(options.mix.textures) or min(_SHEET_COLUMNS, self._num_heads)
        sheets = {kind: ContactSheet(columns, options.sheet_tiles) for kind in self.kinds}
        if sheets[self.kinds[0]].capacity == 0:
            if options.sheet_tiles > 0:
                _logger.info("no contact sheet: a row has %d tiles, more than sheet_tiles", columns)
            return {}
        return sheets

    def _add_tiles(self, output: RenderOutput) -> None:
        for kind, sheet in self._sheets.items():
            if not sheet.is_full:
                sheet.add(self._pictures.tile(kind, output))


def _suffix(kind: str) -> str:
    return "" if kind == "image" else f"_{kind}"


def _spread(num_frames: int) -> set[int]:
    """Return the evenly spaced frames of a video that its row of the sheet shows."""
    count = min(_SHEET_COLUMNS, num_frames)
    return {index * num_frames // count for index in range(count)}
