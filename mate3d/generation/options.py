"""What a user asks to be generated, checked before anything is loaded or rendered."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mate3d.camera_paths import ViewOptions, make_views
from mate3d.errors import UserError
from mate3d.generator import GeneratorConfig
from mate3d.labels import get_label_set
from mate3d.option_checks import as_text, check_count, check_number, parse_words
from mate3d.options import config_from_dict
from mate3d.outputs.mesh import MeshOptions
from mate3d.outputs.video import check_video_format

PICTURE_KINDS = ("image", "segmentation", "depth", "normals", "opacity")
ALL_PICTURES = "all"
_DTYPES = ("float32", "bfloat16", "float16")
_MAX_SEED = 2**32 - 1
# Far more than anyone renders; a slip such as 1-1000000000 must not fill the memory.
_MAX_NUM_SEEDS = 1_000_000


@dataclass(frozen=True)
class VideoOptions:
    """How the frames of a closed path are written.

    Args:
        formats: "mp4", "gif" or both.
        fps: Frames per second.
    """

    formats: tuple[str, ...] = ("mp4",)
    fps: float = 30.0


@dataclass(frozen=True)
class MixOptions:
    """Heads with the shape of one seed and the texture of another, in every combination.

    Args:
        shape_seeds: Seeds of the shape planes; empty mixes nothing.
        texture_seeds: Seeds of the texture planes, background and super-resolution.
    """

    shape_seeds: tuple[int, ...] = ()
    texture_seeds: tuple[int, ...] = ()

    @property
    def is_asked_for(self) -> bool:
        """Whether heads are mixed at all."""
        return bool(self.shape_seeds)


@dataclass(frozen=True)
class GenerationOptions:
    """Everything that decides about the files of a run, apart from generator and device.

    Args:
        seeds: Latents, by `latents_from_seeds`.
        truncation_psi: Pull towards the average head; 1 is none, 0 is the average.
        truncation_cutoff: Truncate style rows below this only; None truncates all.
        views: What the heads are seen from.
        pictures: Kinds of picture, see `PICTURE_KINDS`; "all" is every kind that there is.
        with_depth_values: Also write each still's depth in world units as a NumPy file.
        video: Formats and speed of videos.
        interpolate: One video through the seeds instead of a head a seed.
        mix: Mixed heads instead of those of `seeds`.
        with_meshes: Also write each head's surface.
        mesh: How.
        sheet_tiles: Most tiles of a contact sheet; 0 writes none.
        neural_rendering_resolution: Side of raw renders; None is the checkpoint's.
        dtype: Precision of backbone and super-resolution; the rest is always float32.
        exact: Evaluate everything, see `Generator.render`.
    """

    seeds: tuple[int, ...]
    truncation_psi: float = 0.7
    truncation_cutoff: int | None = None
    views: ViewOptions = field(default_factory=ViewOptions)
    pictures: tuple[str, ...] = ("image",)
    with_depth_values: bool = False
    video: VideoOptions = field(default_factory=VideoOptions)
    interpolate: bool = False
    mix: MixOptions = field(default_factory=MixOptions)
    with_meshes: bool = False
    mesh: MeshOptions = field(default_factory=MeshOptions)
    sheet_tiles: int = 64
    neural_rendering_resolution: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    exact: bool = False

    @property
    def has_videos(self) -> bool:
        """Whether the run makes videos rather than stills."""
        return self.views.is_video or self.interpolate

    def picture_kinds(self, config: GeneratorConfig) -> tuple[str, ...]:
        """Return the kinds of picture to make with a generator.

        Raises:
            UserError: If the segmentation of an unlabelled generator is asked for.
        """
        has_labels = get_label_set(config.label_set).num_classes > 0
        if self.pictures == (ALL_PICTURES,):
            return tuple(kind for kind in PICTURE_KINDS if has_labels or kind != "segmentation")
        if "segmentation" in self.pictures and not has_labels:
            raise UserError("pictures=segmentation, but this generator has no labels")
        return self.pictures

    def check_generator(self, config: GeneratorConfig) -> None:
        """Refuse what a generator cannot do.

        Raises:
            UserError: Saying what and why.
        """
        self.picture_kinds(config)
        if self.mix.is_asked_for and config.plane_branches == "single":
            raise UserError("mix: this generator has the same planes for shape and for texture")
        asks_for_labels = self.mesh.coloring == "label" or self.mesh.per_label
        if asks_for_labels and get_label_set(config.label_set).num_classes == 0:
            raise UserError("mesh: labels are asked for, but this generator has none")


def read_options(values: Mapping[str, Any]) -> GenerationOptions:
    """Build options from plain values, in which lists may be text such as "0,3,5-9".

    Raises:
        UserError: Naming the option, the value and what is allowed.
    """
    values = dict(values)
    for group in ("views", "video", "mix", "mesh"):
        if not isinstance(values.setdefault(group, {}), Mapping):
            raise UserError(f"{group}={values[group]}; give its options one by one (see --help)")
    values["mix"] = {
        name: parse_seeds(f"mix.{name}", seeds, may_be_empty=True)
        for name, seeds in values["mix"].items()
    }
    values["seeds"] = parse_seeds("seeds", values["seeds"])
    values["pictures"] = _parse_pictures(values.get("pictures", "image"))
    for group in ("video", "mesh"):
        if "formats" in values[group]:
            formats = parse_words(f"{group}.formats", values[group]["formats"])
            values[group] = values[group] | {"formats": formats}
    mesh = dict(values["mesh"])
    values["with_meshes"], values["mesh"] = mesh.pop("enabled", False), mesh
    options = config_from_dict(GenerationOptions, values)
    _check_numbers(options)
    _check_video(options)
    make_views(options.views)
    _check_combination(options)
    return options


def parse_seeds(name: str, value: object, *, may_be_empty: bool = False) -> tuple[int, ...]:
    """Read seeds: a number, a list, or text of numbers and ranges such as "0,3,5-9".

    Args:
        name: The option, for messages.
        value: What the user gave; seeds that occur twice are taken once.
        may_be_empty: Return no seeds for None.

    Raises:
        UserError: If it cannot be read or a seed is not in 0..2**32 - 1.
    """
    if value is None and may_be_empty:
        return ()
    allowed = f"use whole numbers from 0 to {_MAX_SEED} and ranges, such as 0,3,5-9"
    parts = list(value) if isinstance(value, list | tuple) else str(value).split(",")
    seeds: dict[int, None] = {}
    for part in parts:
        match = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", str(part))
        if match is None:
            raise UserError(f"{name}={as_text(value)}: cannot read '{part}'; {allowed}")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first or last > _MAX_SEED:
            raise UserError(
                f"{name}={as_text(value)}: '{part}' is out of order or range; {allowed}"
            )
        if last - first + len(seeds) >= _MAX_NUM_SEEDS:
            raise UserError(f"{name}={as_text(value)}: more than {_MAX_NUM_SEEDS} seeds")
        seeds |= dict.fromkeys(range(first, last + 1))
    if not seeds:
        raise UserError(f"{name} is empty; {allowed}")
    return tuple(seeds)


def _parse_pictures(value: object) -> tuple[str, ...]:
    kinds = parse_words("pictures", value)
    if ALL_PICTURES in kinds:
        return (ALL_PICTURES,)
    for kind in kinds:
        if kind not in PICTURE_KINDS:
            allowed = ", ".join((*PICTURE_KINDS, ALL_PICTURES))
            raise UserError(f"pictures holds '{kind}'; use any of: {allowed}")
    return kinds


def _check_numbers(options: GenerationOptions) -> None:
    psi = check_number("truncation_psi", options.truncation_psi)
    if not 0 <= psi <= 2:
        raise UserError(
            f"truncation_psi={psi:g}; use 0 (the average head) to 2, 1 is no truncation"
        )
    check_count("truncation_cutoff", options.truncation_cutoff, 0, 10_000, or_null=True)
    check_count("sheet_tiles", options.sheet_tiles, 0, 10_000)
    side = options.neural_rendering_resolution
    check_count("neural_rendering_resolution", side, 4, 4096, or_null=True)
    if options.dtype not in _DTYPES:
        raise UserError(f"dtype={options.dtype}; use one of: {', '.join(_DTYPES)}")


def _check_video(options: GenerationOptions) -> None:
    fps = check_number("video.fps", options.video.fps, above=0)
    for name in options.video.formats:
        try:
            check_video_format(name, fps)
        except UserError as error:
            raise UserError(f"video: {error}") from None


def _check_is_used(options: GenerationOptions) -> None:
    """Refuse options that the others leave without effect."""
    angles, path = options.views.angles_degrees, options.views.path
    if angles and path != "list":
        raise UserError(
            f"views.angles_degrees={as_text(angles)} is for views.path=list; views.path is {path}"
        )
    for name, is_given in (
        ("mesh.per_label=true", options.mesh.per_label),
        ("mesh.coloring=label", options.mesh.coloring == "label"),
    ):
        if is_given and not options.with_meshes:
            raise UserError(f"{name} is for meshes; say mesh.enabled=true as well")


def _check_combination(options: GenerationOptions) -> None:
    if bool(options.mix.shape_seeds) != bool(options.mix.texture_seeds):
        raise UserError("mix needs both mix.shape_seeds and mix.texture_seeds, or neither")
    if options.with_depth_values and options.has_videos:
        raise UserError("with_depth_values=true is for stills; use views.path=front, list or grid")
    _check_is_used(options)
    if not options.interpolate:
        return
    if len(options.seeds) < 2:
        raise UserError("interpolate=true needs two or more seeds, such as seeds=0-3")
    if options.mix.is_asked_for or options.with_meshes:
        raise UserError("interpolate=true makes videos only; leave out mix and mesh.enabled")
    if options.views.path in ("list", "grid"):
        allowed = "front, orbit or figure_eight"
        raise UserError(f"interpolate=true with views.path={options.views.path}; use {allowed}")
