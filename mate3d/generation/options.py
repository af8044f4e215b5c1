"""Options of `generate`, checked before anything is loaded or rendered."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, get_args

from mate3d.cameras import ViewOptions, make_views
from mate3d.errors import UserError
from mate3d.generator_config import GeneratorConfig
from mate3d.labels import get_label_set
from mate3d.options import OptionError, Options, Precision, Range
from mate3d.outputs.options import MeshOptions, VideoOptions

Pictures = Literal["image", "segmentation", "depth", "normals", "opacity", "all"]
ALL_PICTURES = "all"
PICTURE_KINDS = tuple(kind for kind in get_args(Pictures) if kind != ALL_PICTURES)
TruncationPsi = Annotated[float, Range(0, 2)]
_MAX_SEED = 2**32 - 1
# Far more than anyone renders; a slip such as 1-1000000000 must not fill the memory.
_MAX_NUM_SEEDS = 1_000_000


@dataclass(frozen=True)
class MixOptions(Options):
    """Heads with the shape of one seed and the texture of another, in every combination.

    Args:
        shape_seeds: Mix heads instead of using `seeds`: seeds of the shapes, the rows of the
            sheet; null mixes nothing.
        texture_seeds: Seeds of the colours, background and super-resolution of mixed heads, the
            columns of the sheet.
    """

    shape_seeds: str | None = None
    texture_seeds: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if (self.shape_seeds is None) != (self.texture_seeds is None):
            raise UserError("mix needs both mix.shape_seeds and mix.texture_seeds, or neither")
        _ = self.shapes, self.textures

    @cached_property
    def shapes(self) -> tuple[int, ...]:
        """Seeds of the shapes; empty if nothing is mixed."""
        return () if self.shape_seeds is None else parse_seeds("shape_seeds", self.shape_seeds)

    @cached_property
    def textures(self) -> tuple[int, ...]:
        """Seeds of the textures; empty if nothing is mixed."""
        text = self.texture_seeds
        return () if text is None else parse_seeds("texture_seeds", text)


@dataclass(frozen=True)
class GenerationOptions(Options):
    """Everything that determines the files of a run, apart from generator and device.

    Args:
        seeds: Which heads: numbers and ranges such as 0,3,5-9.
        truncation_psi: Truncation psi; 1 disables truncation, 0 gives the average head, values
            above 1 exaggerate.
        truncation_cutoff: Number of style rows to truncate, from the coarsest; null truncates all.
        views: Viewpoints.
        pictures: Images to write: any of image, segmentation (a palette PNG of label ids),
            depth, normals and opacity, separated by commas; or all.
        with_depth_values: Also write the depth of stills in world units, as .npy files.
        sheet_tiles: Maximum number of tiles per contact sheet; 0 writes none. Rows are seeds,
            columns are views (for videos, eight moments). Rows that do not fit are left out.
        video: Video files.
        interpolate: Write one video that moves through all seeds and back to the first, with one
            turn of views.path (front, orbit or figure_eight) per seed.
        mix: Heads with the shape of one seed and the texture of another.
        mesh: Meshes.
        neural_rendering_resolution: Resolution of the raw renders before super-resolution, in
            pixels; null uses the checkpoint's.
        precision: Precision of the backbone and super-resolution; the rest is always fp32. fp16 is
            slow on a CPU.
        exact: Evaluate every sample of every ray. The default leaves out those that hardly matter:
            several times faster, at a PSNR of 50 dB or more against the exact images (68 dB or
            more in our measurements).
    """

    seeds: str = "0-7"
    truncation_psi: TruncationPsi = 0.7
    truncation_cutoff: Annotated[int, Range(0, 10_000)] | None = None
    views: ViewOptions = ViewOptions()
    pictures: tuple[Pictures, ...] = ("image",)
    with_depth_values: bool = False
    sheet_tiles: Annotated[int, Range(0, 10_000)] = 64
    video: VideoOptions = VideoOptions()
    interpolate: bool = False
    mix: MixOptions = MixOptions()
    mesh: MeshOptions = MeshOptions()
    neural_rendering_resolution: Annotated[int, Range(4, 4096)] | None = None
    precision: Precision = "fp32"
    exact: bool = False

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "pictures", tuple(dict.fromkeys(self.pictures)))
        if not self.pictures:
            advice = f"use any of {', '.join(get_args(Pictures))}"
            raise OptionError("pictures", self.pictures, advice)
        _ = self.heads, make_views(self.views)
        self._check_combination()

    @cached_property
    def heads(self) -> tuple[int, ...]:
        """The seeds, one by one."""
        return parse_seeds("seeds", self.seeds)

    @property
    def has_videos(self) -> bool:
        """Whether the run makes videos rather than stills."""
        return self.views.is_video or self.interpolate

    def picture_kinds(self, config: GeneratorConfig) -> tuple[str, ...]:
        """Return the kinds of image to make with a generator.

        Raises:
            UserError: If the segmentation of an unlabelled generator is requested.
        """
        has_labels = get_label_set(config.label_set).num_classes > 0
        if ALL_PICTURES in self.pictures:
            return tuple(kind for kind in PICTURE_KINDS if has_labels or kind != "segmentation")
        if "segmentation" in self.pictures and not has_labels:
            raise UserError("pictures=segmentation, but this generator has no labels")
        return self.pictures

    def check_generator(self, config: GeneratorConfig) -> None:
        """Reject options that a generator does not support.

        Raises:
            UserError: If there are any.
        """
        self.picture_kinds(config)
        if self.mix.shapes and config.plane_branches == "single":
            raise UserError(
                "mix needs separate planes for shape and texture; this generator has one set"
            )
        asks_for_labels = self.mesh.coloring == "label" or self.mesh.per_label
        if asks_for_labels and get_label_set(config.label_set).num_classes == 0:
            raise UserError(
                "mesh: this generator has no labels; use mesh.coloring=texture mesh.per_label=false"
            )

    def _check_combination(self) -> None:
        """Reject options that exclude each other, or that have no effect with others."""
        if self.with_depth_values and self.has_videos:
            advice = "is for stills; use views.path=front, list or grid"
            raise OptionError("with_depth_values", True, advice)
        for name, is_given in (("coloring", "label"), ("per_label", True)):
            if getattr(self.mesh, name) == is_given and not self.mesh.enabled:
                advice = "has no effect without mesh.enabled=true"
                raise OptionError(f"mesh.{name}", is_given, advice)
        if not self.interpolate:
            return
        if len(self.heads) < 2:
            raise UserError("interpolate=true needs two or more seeds, such as seeds=0-3")
        if self.mix.shapes or self.mesh.enabled:
            raise UserError("interpolate=true makes videos only; leave out mix and mesh.enabled")
        if self.views.path in ("list", "grid"):
            advice = "with interpolate=true, use front, orbit or figure_eight"
            raise OptionError("views.path", self.views.path, advice)


def parse_seeds(name: str, text: str) -> tuple[int, ...]:
    """Read numbers and ranges such as "0,3,5-9".

    Args:
        name: The option, for messages.
        text: The user's text, with or without brackets; repeated seeds are used once.

    Raises:
        OptionError: If it cannot be read or a seed is not in 0..2**32 - 1.
    """
    advice = f"use integers from 0 to {_MAX_SEED} and ranges, such as 0,3,5-9"
    seeds: dict[int, None] = {}
    for part in text.strip("[ ]").split(","):
        match = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", part)
        if match is None:
            raise OptionError(name, text, f"cannot read '{part}'; {advice}")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first or last > _MAX_SEED:
            raise OptionError(name, text, f"'{part}' is out of order or range; {advice}")
        if last - first + len(seeds) >= _MAX_NUM_SEEDS:
            raise OptionError(name, text, f"more than {_MAX_NUM_SEEDS} seeds")
        seeds |= dict.fromkeys(range(first, last + 1))
    return tuple(seeds)
