"""Small pieces of English for messages and captions."""

from collections.abc import Sequence


def join_words(words: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"; at least one word is needed."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
