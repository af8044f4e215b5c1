"""The flags of a command line; Hydra's flags work as usual or are rejected with the reason."""

from collections.abc import Sequence

from mate3d.errors import UserError

_FLAGS = {"-h": "--help", "-c": "--cfg", "-m": "--multirun"}
_FLAGS |= {name: name for name in (*_FLAGS.values(), "--resolve")}
_OPTIONS = "options are written as name=value, see --help"
_ONE_CONFIG = "each script has one configuration; choose values with experiment=... or name=value"
_SEE_CFG = "use --cfg to see the composed options"
_REASONS = {
    **dict.fromkeys(("-i", "--info", "-p", "--package"), _SEE_CFG),
    "--hydra-help": "use --help to see all options",
    **dict.fromkeys(("-r", "--run"), "leave it out: scripts run by default"),
    **dict.fromkeys(("-cn", "--config-name", "-cp", "--config-path"), _ONE_CONFIG),
    **dict.fromkeys(("-cd", "--config-dir"), _ONE_CONFIG),
}


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
        elif _FLAGS.get(previous) == "--cfg" and word in ("job", "hydra", "all"):
            if word != "job":
                raise UserError(f"cannot read '--cfg {word}'; {_SEE_CFG}")
        elif word.startswith("-") or ("=" not in word and not word.startswith("~")):
            reason = _REASONS.get(word.partition("=")[0], _OPTIONS)
            raise UserError(f"cannot read '{word}'; {reason}")
        else:
            options.append(word)
        previous = word
    return flags, options
