"""Options of a dataset, set together by `dataset=NAME`."""

from dataclasses import dataclass, fields
from typing import Literal

from mate3d.options import NonNegativeInt, OptionError, Options, PositiveInt

Source = Literal[
    "procedural_cat", "procedural_person", "folder", "catmask_hq", "celebamask_hq", "packed"
]
CropName = Literal["none", "center", "ffhq", "eg3d"]
Framing = Literal["rig", "ffhq", "eg3d"]

PROCEDURAL_SOURCES = ("procedural_cat", "procedural_person")
_PHOTO_SOURCES = ("folder", "catmask_hq", "celebamask_hq")
# Options that only some sources use.
_SOURCES_WITH = {
    "crop": _PHOTO_SOURCES,
    "framing": _PHOTO_SOURCES,
    "supersampling": PROCEDURAL_SOURCES,
    "variety": ("procedural_cat",),
    "copies_from": ("folder",),
    "swap_mouth_and_nose": ("catmask_hq",),
}


@dataclass(frozen=True)
class DatasetOptions(Options):
    """A dataset: its labels, and how prepare_data makes it.

    Args:
        name: Name of the dataset.
        source: Where its images come from: rendered (procedural_cat, procedural_person), photos in
            any folder (folder) or as published (catmask_hq, celebamask_hq), or the dataset in
            `data` (packed).
        label_set: Label set of its masks, a name in mate3d/label_sets; with source=packed, null
            keeps that of `data`.
        resolution: Resolution of its images and masks, in pixels, unless `resolution` is set; with
            source=packed, null keeps that of `data`.
        crop: How photos are cropped, unless `crop` is set.
        framing: Size and position of heads in photos that prepare_data does not align: as in FFHQ,
            as in EG3D's crops, or as our rig frames them.
        supersampling: Procedural portraits: rays per pixel along each axis.
        variety: Procedural cats: basic, which the demo generator was trained on, or rich, with more
            shapes, coats and expressions.
        copies_from: Leave out photos from this number on (in FFHQ, EG3D's copies for
            rebalancing); null keeps all.
        swap_mouth_and_nose: Swap the classes mouth and nose of CatMask-HQ, whose ids are inferred;
            check=true reports whether they are swapped.
    """

    name: str = "folder"
    source: Source = "folder"
    label_set: str | None = None
    resolution: PositiveInt | None = 512
    crop: CropName = "none"
    framing: Framing = "rig"
    supersampling: PositiveInt = 2
    variety: Literal["basic", "rich"] = "basic"
    copies_from: NonNegativeInt | None = None
    swap_mouth_and_nose: bool = False

    def __post_init__(self):
        super().__post_init__()
        defaults = {field.name: field.default for field in fields(self)}
        for name, sources in _SOURCES_WITH.items():
            value = getattr(self, name)
            if value != defaults[name] and self.source not in sources:
                advice = f"has no effect with source={self.source} (only with {', '.join(sources)})"
                raise OptionError(name, value, advice)
        for name in ("label_set", "resolution"):
            if getattr(self, name) is None and self.source != "packed":
                raise OptionError(name, None, f"is required with source={self.source}")
