"""Do the parts of a picture have the colours that its text names?"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
import yaml
from torch import Tensor

from mate3d.checkpoints.assets import folder_or_asset
from mate3d.labels import LabelSet
from mate3d.procedural.cats.cat import EYE_PALETTE, FUR_PALETTE, NOSE_PALETTE
from mate3d.procedural.people.person import (
    FABRIC_PALETTE,
    HAIR_PALETTE,
    IRIS_PALETTE,
    SKIN_PALETTE,
)

COLORS_ASSET = "procedural_colors"
COLORS_FILE = "colors.yaml"
# Fewer pixels show no colour, and fewer examples no mean.
_MIN_PART_PIXELS = 6
_MIN_EXAMPLES = 5
_PALETTES = (FUR_PALETTE, EYE_PALETTE, NOSE_PALETTE)
_PALETTES += (FABRIC_PALETTE, HAIR_PALETTE, IRIS_PALETTE, SKIN_PALETTE)
# Longest first, so that "dark brown" is not read as "brown".
_WORDS = "|".join(sorted({word for one in _PALETTES for word in one}, key=len, reverse=True))
# Up to two words between a colour and its part, as in "black pointed ears".
_BETWEEN = rf"(?: (?!(?:{_WORDS}|and|with|point)\b)[\w-]+){{0,2}}"
# Nouns of each part, and the classes that make it up in one label set or the other. Of fur in two
# colours, neither is the colour of the whole.
_PARTS = {
    "skin": ("cat|kitten|fur|skin", ("skin",)),
    "ears": ("ears", ("ears",)),
    "eyes": ("eyes", ("eyes", "l_eye", "r_eye")),
    "nose": ("nose", ("nose",)),
    "hair": ("hair|bob", ("hair",)),
    "glasses": ("glasses", ("eye_g",)),
    "hat": ("hat|beanie", ("hat",)),
    "cloth": ("shirt|sweater|turtleneck", ("cloth",)),
}
_PATTERNS = {
    part: re.compile(
        rf"(?<!and )\b({_WORDS}){_BETWEEN} (?:{nouns})\b(?!.* spots)"
        if part == "skin"
        else rf"\b({_WORDS}){_BETWEEN} (?:{nouns})\b"
    )
    for part, (nouns, _) in _PARTS.items()
}


class NamedColor(NamedTuple):
    """The colour of a part of an image, and the word for it in the caption."""

    part: str
    word: str
    color: Tensor  # [3]


@dataclass(frozen=True)
class PartColors:
    """The colours that words mean for one part.

    Args:
        means: Mean colour of the part on images whose caption has the word, RGB in [-1, 1].
        spread: Standard deviation of one channel around these means.
    """

    means: Mapping[str, Sequence[float]]
    spread: float

    def probabilities(
        self,
        color: Tensor,  # [3]
    ) -> dict[str, float]:
        """Return how probable each word is, if all words' colours are spread equally.

        The most probable word is that of the nearest mean.
        """
        means = color.new_tensor(list(self.means.values()))
        squared = (means - color).square().sum(dim=1)
        likely = (-squared / (2 * self.spread**2)).softmax(dim=0)
        return dict(zip(self.means, likely.tolist(), strict=True))


def colors_in(text: str) -> dict[str, str]:
    """Return the colour that a text names for each part, such as {"ears": "black"}."""
    found = {part: pattern.search(text.lower()) for part, pattern in _PATTERNS.items()}
    return {part: match[1] for part, match in found.items() if match}


def part_ids(part: str, label_set: LabelSet) -> list[int]:
    """Return the ids of the classes that make up a part of `colors_in`; empty if there are none."""
    names = label_set.class_names
    return [names.index(name) for name in _PARTS[part][1] if name in names]


def named_colors(
    images: Tensor,  # [B, 3, H, W] in [-1, 1]
    label_maps: Tensor,  # [B, H, W] integer
    captions: Sequence[str],  # B
    label_set: LabelSet,
) -> list[NamedColor]:
    """Return the mean colour of every visible part with a colour named in its caption."""
    found = []
    for image, label_map, caption in zip(images, label_maps, captions, strict=True):
        for part, word in colors_in(caption).items():
            color = part_color(image, label_map, part, label_set)
            if color is not None:
                found.append(NamedColor(part, word, color))
    return found


def part_color(
    image: Tensor,  # [3, H, W]
    label_map: Tensor,  # [H, W] integer
    part: str,
    label_set: LabelSet,
) -> Tensor | None:  # [3]
    """Return the mean colour of a part; None if it is hardly visible."""
    ids = torch.tensor(part_ids(part, label_set))
    region = torch.isin(label_map, ids.to(label_map))
    return image[:, region].mean(dim=1) if int(region.sum()) >= _MIN_PART_PIXELS else None


def fit_colors(real: Iterable[NamedColor]) -> dict[str, PartColors]:
    """Return what the words mean for each part of real images; rare words are left out."""
    groups: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for part, word, color in real:
        groups[part][word].append(color)
    fitted = {}
    for part, words in groups.items():
        known = {word: torch.stack(all_) for word, all_ in words.items()}
        known = {word: all_ for word, all_ in known.items() if len(all_) >= _MIN_EXAMPLES}
        if known:
            means = {word: colors.mean(dim=0) for word, colors in known.items()}
            errors = torch.cat([colors - means[word] for word, colors in known.items()])
            spread = max(errors.square().mean().sqrt().item(), 1e-3)
            rounded = {
                word: [round(value, 3) for value in mean.tolist()] for word, mean in means.items()
            }
            fitted[part] = PartColors(rounded, round(spread, 3))
    return fitted


def color_agreement(
    named: Sequence[NamedColor], known: Mapping[str, PartColors]
) -> dict[str, float]:
    """Return per part how often the nearest mean colour has the named word."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for part, word, color in named:
        if part in known and word in known[part].means:
            likely = known[part].probabilities(color)
            hits[part].append(max(likely, key=likely.__getitem__) == word)
    return {part: sum(values) / len(values) for part, values in hits.items()}


@cache
def load_part_colors(label_set_name: str) -> dict[str, PartColors]:
    """Return the colours of exact procedural portraits; empty if none have these labels."""
    text = (folder_or_asset(COLORS_ASSET) / COLORS_FILE).read_text(encoding="utf-8")
    parts = yaml.safe_load(text).get(label_set_name, {})
    return {name: PartColors(**values) for name, values in parts.items()}
