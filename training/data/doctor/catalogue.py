"""All kinds of findings by code, in the order of reports and repairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
LEAVES_OUT = "leaves these items out"
_ESTIMATED = "cameras estimated from these masks stay wrong, so prepare such a dataset again"

# The fault, and after a colon why it matters or its usual cause; then what the repair does.
Table = Mapping[str, tuple[str, str | None]]

# Not representable in the on-disk format: nothing can be written without the repair.
_FORMAT_ERRORS: Table = {
    "index_invalid": ("dataset.json is missing or unreadable: often truncated", None),
    "label_set_unknown": ("label set missing or unknown", "writes the one from label_set="),
    "convention_unknown": (
        "camera convention missing or unknown",
        "writes 'opencv' (axes are checked, and corrected by the fix camera_convention)",
    ),
    "entries_invalid": (
        "malformed entries of dataset.json: see Format on disk in docs/data.md",
        "leaves these entries out",
    ),
    "name_mismatch": (
        "names that do not match exactly: folders, case and extension must be the same",
        "gives all parts the image's name",
    ),
    "name_unsafe": (
        "names outside the dataset: they must be relative paths with '/', without '..'",
        LEAVES_OUT,
    ),
    "unpaired": ("items without image, mask or camera: often an interrupted copy", LEAVES_OUT),
    "unreadable": ("unreadable images or masks: often an interrupted copy", LEAVES_OUT),
    "image_format": (
        "images that are not plain 8-bit RGB .png files: training ignores rotation tags",
        "writes 8-bit RGB PNGs (transparent pixels over white, rotation applied)",
    ),
    "image_size": (
        "images that are not square, or have a different size than most",
        "cuts out the central square and resizes it, masks by nearest neighbour",
    ),
    "image_blank": ("images of a single colour: often a failed crop or missing frame", LEAVES_OUT),
    "mask_size": ("masks with a different size than their image", "resizes by nearest neighbour"),
    "mask_useless": (
        "masks without usable classes: ids are lost in JPEG, unknown colours or black and white; a "
        "single class is a failed segmentation",
        LEAVES_OUT,
    ),
    "mask_colors": (
        "masks that store colours: classes are given by colours, not by pixel values",
        "looks up the colours; mixed pixels get the most similar class next to them",
    ),
    "mask_format": ("masks with several channels or more than 8 bits", "keeps one 8-bit channel"),
    "mask_scaled": (
        "masks with scaled ids, or ids from 1: grey levels for viewing, not ids",
        "divides by the factor, or subtracts 1",
    ),
    "mask_interpolated": (
        "masks resized with interpolation: thin lines of other ids between classes; resize with "
        "nearest neighbour",
        "gives those lines the nearest class",
    ),
    "mask_unknown_ids": (
        "masks with unknown ids: if it is all masks, the label set is wrong",
        "fills up to a tenth of a mask with the nearest known class, otherwise leaves the item out",
    ),
    "camera_invalid": (
        "invalid cameras: matrices must be rigid, and heads about 2.7 units away",
        LEAVES_OUT,
    ),
}
# Faults that teach something false.
_ERRORS: Table = {
    "label_order": (
        "masks follow another label set: classes are not where a head has them",
        f"converts the ids; {_ESTIMATED}",
    ),
    "mouth_nose_swapped": (
        "mouth above the nose: the two ids are swapped",
        f"swaps the two ids; {_ESTIMATED}",
    ),
    "left_right_swapped": (
        "left and right classes swapped: l_... must be on the left of the image; often images were "
        "mirrored without swapping them, or left means the person's left",
        "swaps the pairs of classes",
    ),
    "upside_down": ("heads upside down: often a lost rotation tag", LEAVES_OUT),
    "camera_convention": (
        "cameras in another convention: matrices must be camera-to-world, row-major, with OpenCV "
        "axes; frontal is +z, up is y; intrinsics are divided by the image size",
        "transposes, inverts, rotates or scales the cameras",
    ),
    "camera_mirrored": (
        "cameras on the wrong side or at the wrong height: noses point the other way",
        "mirrors the cameras, after the repair camera_convention",
    ),
    "camera_unrelated": (
        "cameras do not fit the images: all are the same, or noses point elsewhere; often they "
        "were assigned by order instead of name",
        None,
    ),
}
_WARNINGS: Table = {
    "caption_missing": ("images without a caption, while others have one", None),
    "duplicate": (
        "identical images (except the first), or one mask for different images: copies spoil test "
        "sets; shared masks were often paired by order",
        LEAVES_OUT,
    ),
    "mask_mirrored": (
        "masks mirrored relative to their image: only one of the two was flipped",
        "mirrors the masks (and swaps left and right classes)",
    ),
    "mask_misfit": (
        "masks that do not fit their image or do not look like a face: from another crop or image, "
        "or a failed segmentation",
        None,
    ),
    "camera_outlier": (
        "cameras that do not fit their image: they look past the head, or noses point elsewhere",
        None,
    ),
}
_NOTES: Table = {
    "stray_files": (
        "files and captions without an item: they are ignored",
        "leaves them out",
    ),
    "mask_palette": ("masks with another palette: viewers show unusual colours", "changes it"),
    "few_examples": ("few images, or none of some classes: enough only for fine-tuning", None),
}


@dataclass(frozen=True)
class Kind:
    """A kind of finding."""

    code: str  # stable name, accepted by `fix=` if there is a repair
    severity: Severity
    sentence: str
    fix: str | None  # what the repair does
    is_blocking: bool  # whether nothing can be written without the repair

    @property
    def title(self) -> str:
        """The fault, in a few words."""
        return self.sentence.partition(": ")[0]

    @property
    def meaning(self) -> str:
        """Why it matters, or its usual cause."""
        return self.sentence.partition(": ")[2]


_TABLES = zip(("error", *SEVERITIES), (_FORMAT_ERRORS, _ERRORS, _WARNINGS, _NOTES), strict=True)
CATALOGUE = {
    code: Kind(code, severity, sentence, fix, table is _FORMAT_ERRORS)
    for severity, table in _TABLES
    for code, (sentence, fix) in table.items()
}
