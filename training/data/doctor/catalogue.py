"""All kinds of findings by their code, in the order of a report and of repairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
LEAVES_OUT = "leaves these items out"
_ESTIMATED = "cameras that were estimated from these masks stay wrong, so prepare such a set again"

# What is wrong, after a colon why it matters or where it comes from; what the repair does.
Table = Mapping[str, tuple[str, str | None]]

# What the format on disk cannot hold: nothing can be written without the repair.
_FORMAT_ERRORS: Table = {
    "index_invalid": ("dataset.json is missing or cannot be read: often cut off", None),
    "label_set_unknown": ("label set not named, or not known", "writes the one of label_set="),
    "convention_unknown": (
        "camera convention not named, or not known",
        "writes 'opencv' (the axes are checked, and turned by the fix camera_convention)",
    ),
    "entries_invalid": (
        "malformed entries of dataset.json: see Format on disk in docs/data.md",
        "leaves these entries out",
    ),
    "name_mismatch": (
        "names that do not match exactly: all parts need the same folders, capitals and extension",
        "gives all parts the image's name",
    ),
    "name_unsafe": (
        "names that lead out of the data set: they must be relative paths with '/', without '..'",
        LEAVES_OUT,
    ),
    "unpaired": ("items without image, mask or camera: often an interrupted copy", LEAVES_OUT),
    "unreadable": ("images or masks that cannot be read: often an interrupted copy", LEAVES_OUT),
    "image_format": (
        "images that are not plain 8-bit RGB .png files: training ignores tags that turn them",
        "writes 8-bit RGB PNGs (transparent pixels over white, without the tag)",
    ),
    "image_size": (
        "images that are not square, or differ in size from most",
        "cuts out the central square and resizes it, masks by nearest neighbour",
    ),
    "image_blank": ("images of one colour: often a failed crop or a missing frame", LEAVES_OUT),
    "mask_size": ("masks of another size than their image", "resizes by nearest neighbour"),
    "mask_useless": (
        "masks that do not tell the classes: ids are lost in JPEG, in unknown colours, in black "
        "and white; one class only is a failed segmentation",
        LEAVES_OUT,
    ),
    "mask_colors": (
        "masks that store colours: the classes are in the colours and not in the pixel values",
        "looks the colours up; mixed pixels get the class beside them that they are most like",
    ),
    "mask_format": ("masks of several channels or over 8 bits", "keeps one channel of 8 bits"),
    "mask_scaled": (
        "masks with multiplied ids, or that count from 1: grey levels made for looking at, not ids",
        "divides by the factor, or subtracts 1",
    ),
    "mask_interpolated": (
        "masks resized with smoothing: thin lines of other ids lie between the classes; resize by "
        "nearest neighbour",
        "gives those lines the nearest class",
    ),
    "mask_unknown_ids": (
        "masks with unknown ids: if all masks are concerned, it is the wrong label set",
        "fills up to a tenth of a mask from the nearest known class, leaves the item out otherwise",
    ),
    "camera_invalid": (
        "numbers that can be no camera: matrices must be rigid, heads about 2.7 units away",
        LEAVES_OUT,
    ),
}
# What teaches something false.
_ERRORS: Table = {
    "label_order": (
        "masks follow another label set: the classes lie where a head has other ones",
        f"converts the ids; {_ESTIMATED}",
    ),
    "mouth_nose_swapped": (
        "mouth above the nose: the two ids are exchanged",
        f"exchanges the two ids; {_ESTIMATED}",
    ),
    "left_right_swapped": (
        "left and right classes exchanged: l_... must be on the left of the image; often it was "
        "mirrored without exchanging them, or the person's own left is meant",
        "exchanges the pairs of classes",
    ),
    "upside_down": ("heads upside down: often a lost rotation tag", LEAVES_OUT),
    "camera_convention": (
        "cameras in another convention: matrices lead from the camera to the world, row by row, "
        "with OpenCV's axes; frontal is +z, up is y; intrinsics are divided by the image size",
        "transposes, inverts, turns or scales the cameras",
    ),
    "camera_mirrored": (
        "cameras on the wrong side, or at the wrong height: the noses point the other way",
        "mirrors the cameras, after what camera_convention does",
    ),
    "camera_unrelated": (
        "cameras do not fit the images: all are the same, or noses point elsewhere; often they "
        "were assigned by order and not by name",
        None,
    ),
}
_WARNINGS: Table = {
    "caption_missing": ("images without a caption, while others have one", None),
    "duplicate": (
        "identical images (but the first), or one mask for different images: copies spoil test "
        "sets, shared masks were often paired by order",
        LEAVES_OUT,
    ),
    "mask_mirrored": (
        "masks mirrored against their image: one of the two was flipped alone",
        "mirrors the masks (and exchanges left and right classes)",
    ),
    "mask_misfit": (
        "masks that do not fit their image, or look like no face: of another crop or image, or a "
        "failed segmentation",
        None,
    ),
    "camera_outlier": (
        "cameras that do not fit their image: they look past the head, or its nose elsewhere",
        None,
    ),
}
_NOTES: Table = {
    "stray_files": (
        "files and captions that belong to nothing: they are ignored",
        "leaves them out",
    ),
    "mask_palette": ("masks with another palette: viewers show unusual colours", "changes it"),
    "few_examples": ("few images, or none of some classes: enough for fine-tuning only", None),
}


@dataclass(frozen=True)
class Kind:
    """A kind of finding."""

    code: str  # stable name, which `fix=` accepts if there is a repair
    severity: Severity
    sentence: str
    fix: str | None  # what the repair does
    is_blocking: bool  # whether nothing can be written without the repair

    @property
    def title(self) -> str:
        """What is wrong, in a few words."""
        return self.sentence.partition(": ")[0]

    @property
    def meaning(self) -> str:
        """Why it matters or where it usually comes from."""
        return self.sentence.partition(": ")[2]


_TABLES = zip(("error", *SEVERITIES), (_FORMAT_ERRORS, _ERRORS, _WARNINGS, _NOTES), strict=True)
CATALOGUE = {
    code: Kind(code, severity, sentence, fix, table is _FORMAT_ERRORS)
    for severity, table in _TABLES
    for code, (sentence, fix) in table.items()
}
