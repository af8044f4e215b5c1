"""The flags of a command line; some of Hydra's flags work as usual."""

from collections.abc import Sequence

from mate3d.errors import UserError

_FLAGS = {"-h": "--help", "-c": "--cfg", "-m": "--multirun"}
_FLAGS |= {name: name for name in (*_FLAGS.values(), "--resolve")}
_OPTIONS = "options are written as name=value, see --help"


def read_flags(words: Sequence[str]) -> tuple[set[str], list[str]]:
    """Split a command line into flags, by their long names, and `name=value` words.

    Raises:
        UserError: If a word is neither.
    """
    flags: set[str] = set()
    options: list[str] = []
    previous = ""
    for word in words:
        if word in _FLAGS:
            flags.add(_FLAGS[word])
        elif word == "job" and _FLAGS.get(previous) == "--cfg":
            pass
        elif word.startswith("-") or ("=" not in word and not word.startswith("~")):
            raise UserError(f"cannot read '{word}'; {_OPTIONS}")
        else:
            options.append(word)
        previous = word
    return flags, options
