"""Conversion of label maps between label sets, with a description of what each one loses."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mate3d.errors import UserError
from mate3d.labels import Converter, LabelSet, get_label_set, label_set_names

_BACKGROUND = "background"


@dataclass(frozen=True, eq=False)
class LabelConversion:
    """A conversion from one label set to another.

    Args:
        table: Target id of each source id, [K] uint8.
        losses: One sentence for each class that is merged, dropped, or in the target but never
            in the result; empty if the conversion only renumbers.
    """

    source: LabelSet
    target: LabelSet
    table: np.ndarray
    losses: tuple[str, ...]

    def apply(
        self,
        label_map: np.ndarray,  # [H, W] uint8
    ) -> np.ndarray:  # [H, W] uint8
        """Return the map with the target's ids."""
        return self.table[label_map]


def find_conversion(source: LabelSet, target: LabelSet) -> LabelConversion:
    """Return the shortest conversion between two sets, through other sets if necessary.

    Raises:
        UserError: If there is none.
    """
    ways = _find_ways(source)
    if target.name not in ways:
        possible = ", ".join(name for name in ways if name != source.name) or "none"
        raise UserError(
            f"cannot convert label set {source.name} to {target.name}; possible targets: {possible}"
        )
    way = ways[target.name]
    table = np.arange(source.num_classes, dtype=np.uint8)
    for step in way:
        table = np.array(step.table, dtype=np.uint8)[table]
    notes = tuple(_sentence(step.note) for step in way if step.note)
    losses = (*_table_losses(source, target, table.tolist()), *notes)
    return LabelConversion(source, target, table, losses)


def swap_classes(
    label_map: np.ndarray,  # [H, W] uint8
    first_id: int,
    second_id: int,
) -> np.ndarray:  # [H, W] uint8
    """Swap two classes, such as CatMask-HQ's mouth and nose where their ids are reversed."""
    table = np.arange(256, dtype=np.uint8)
    table[[first_id, second_id]] = second_id, first_id
    return table[label_map]


def _find_ways(source: LabelSet) -> dict[str, tuple[Converter, ...]]:
    """Return the shortest chain of converters to every reachable set."""
    ways: dict[str, tuple[Converter, ...]] = {source.name: ()}
    queue = deque([source])
    while queue:
        label_set = queue.popleft()
        for step in (*label_set.converters, *_inverses(label_set)):
            if step.target not in ways:
                ways[step.target] = (*ways[label_set.name], step)
                queue.append(get_label_set(step.target))
    return ways


def _inverses(label_set: LabelSet) -> list[Converter]:
    """Return the inverses of converters that only renumber, so that files need not repeat them."""
    others = [get_label_set(name) for name in label_set_names()]
    return [
        Converter(other.name, tuple(int(i) for i in np.argsort(converter.table)))
        for other in others
        for converter in other.converters
        if converter.target == label_set.name
        and sorted(converter.table) == list(range(label_set.num_classes))
    ]


def _table_losses(source: LabelSet, target: LabelSet, table: list[int]) -> tuple[str, ...]:
    losses = []
    for id_, name in enumerate(target.class_names):
        merged = [s for s, t in zip(source.class_names, table, strict=True) if t == id_]
        dropped = [s for s in merged if s != _BACKGROUND]
        if not merged:
            losses.append(f"{name} never occurs in the result")
        elif name == _BACKGROUND and dropped:
            losses.append(f"{join_words(dropped)} {'is' if len(dropped) == 1 else 'are'} dropped")
        elif len(merged) > 1:
            quantity = "both" if len(merged) == 2 else "all"
            losses.append(f"{join_words(merged)} {quantity} become {name}")
    return tuple(_sentence(loss) for loss in losses)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def join_words(words: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"; at least one word is needed."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
