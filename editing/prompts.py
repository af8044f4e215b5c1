"""Prompts of an edit: which parts they concern, and whether these may change."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence

from mate3d.errors import UserError
from mate3d.labels import LabelSet

_logger = logging.getLogger(__name__)

# Other words for classes; plural and singular of every word are found.
_OTHER_WORDS = {
    "skin": ("fur",),
    "brow": ("eyebrow",),
    "brows": ("eyebrow",),
    "eye_g": ("glasses", "eyeglasses"),
    "ear_r": ("earring",),
    "neck_l": ("necklace",),
    "cloth": ("clothes", "clothing"),
}
# Adjectives of the classes l_eye, r_eye, u_lip, l_lip.
_ADJECTIVES = {"l": ("left", "lower"), "r": ("right",), "u": ("upper",)}


def resolve_label_prompts(prompts: Mapping[str, str], label_set: LabelSet) -> dict[int, str]:
    """Return prompts of labels by class id.

    Args:
        prompts: By class name.

    Raises:
        UserError: If a class is unknown or its prompt is empty.
    """
    for name, text in prompts.items():
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"prompts.{name}={text}; describe how this part should look")
    return {label_set.class_id(name): text.strip() for name, text in prompts.items()}


def log_fixed_parts(
    what: str, concerned: Iterable[int], class_ids: Sequence[int], label_set: LabelSet
) -> None:
    """Log which parts a prompt or mask concerns though they may not change.

    Args:
        what: Subject and verb of the message.
        class_ids: Classes that may change.
    """
    if fixed := set(concerned).difference(class_ids):
        names, every = (
            [label_set.class_names[class_id] for class_id in sorted(ids)]
            for ids in (fixed, fixed.union(class_ids))
        )
        _logger.warning(
            "%s %s, which may not change; use edit_classes=[%s] to change them",
            what,
            ", ".join(names),
            ",".join(every),
        )


def named_classes(text: str, label_set: LabelSet) -> list[int]:
    """Return the ids of the classes that a text names, such as those of "left eye" and "ears"."""
    return [
        class_id
        for class_id, name in enumerate(label_set.class_names)
        if _is_named(name, text.lower())
    ]


def _is_named(class_name: str, text: str) -> bool:
    side, name = re.fullmatch(r"(?:([lru])_)?(.+)", class_name).groups()
    allowed = {"", *_ADJECTIVES.get(side, ())}
    for word in (name, *_OTHER_WORDS.get(name, ())):
        stem = re.escape(word.removesuffix("s"))
        found = re.findall(rf"(?:\b(left|right|upper|lower)\s+)?\b{stem}s?\b", text)
        if found and (side is None or allowed.intersection(found)):
            return True
    return False
