"""What a sample is trained with: its caption, one phrase of it, or nothing."""

import re
from collections.abc import Collection, Sequence

from torch_utils.batch_random import BatchRandom

_SEPARATORS = re.compile(r",? (?:with|wearing) |, (?:and )?")
_ARTICLE = re.compile(r"^(?:an?|the) ")


def caption_phrases(caption: str) -> list[str]:
    """Return the phrases of a caption: who it is, and each part without its article.

    For example, "a white and grey cat with a pink nose and blue eyes, white background" has "a
    white and grey cat", "pink nose", "blue eyes" and "white background".
    """
    subject, *parts = _SEPARATORS.split(caption.strip())
    # "and" in the subject joins adjectives.
    phrases = [phrase for part in parts for phrase in part.split(" and ")]
    phrases = [_ARTICLE.sub("", phrase.strip()) for phrase in phrases]
    return [subject, *filter(None, phrases)]


def possible_captions(captions: Collection[str], phrase_share: float) -> set[str]:
    """Return everything that `draw_captions` can return for some captions."""
    phrases = {phrase for caption in captions for phrase in caption_phrases(caption)}
    return {"", *captions, *(phrases if phrase_share > 0 else ())}


def draw_captions(
    captions: Sequence[str], *, dropout: float, phrase_share: float, random: BatchRandom
) -> list[str]:
    """Return the captions, some replaced by one of their phrases and some by the empty one.

    Args:
        dropout: Share of empty captions.
        phrase_share: Share of phrases among the others.
        random: Draws for each caption.
    """
    chances = random.rand((len(captions), 3)).tolist()
    drawn = []
    for caption, (empty, phrase, which) in zip(captions, chances, strict=True):
        if phrase < phrase_share:
            phrases = caption_phrases(caption)
            caption = phrases[int(which * len(phrases))]
        drawn.append("" if empty < dropout else caption)
    return drawn
