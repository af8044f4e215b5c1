"""The form of an entry in the catalogue of findings."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
LEAVES_OUT = "leaves these items out"


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Args:
        code: Stable name, which `fix=` accepts if the kind is fixable.
        severity: An error keeps training from working or teaches it something false; a warning
            probably does; a note is worth knowing.
        title: A few words.
        meaning: Why it matters and where it usually comes from.
        fix: What the repair does; empty if there is none.
    """

    code: str
    severity: Severity
    title: str
    meaning: str
    fix: str = ""
