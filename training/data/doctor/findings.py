"""What the doctor says: findings, statistics, diagnosis."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mate3d.labels import LabelSet

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
LEAVES_OUT = "leaves these items out"
# As many different remarks are counted in one line.
_MAX_COUNTED = 4


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Args:
        code: Stable name, which `fix=` accepts if the kind is fixable.
        severity: An error keeps training from working or teaches it something false; a warning
            probably does; a note is worth knowing.
        title: A few words.
        meaning: Why it matters and where it usually comes from.
        fix: What the repair does; None if there is none.
    """

    code: str
    severity: Severity
    title: str
    meaning: str
    fix: str | None = None


@dataclass(frozen=True)
class Finding:
    """One kind of fault and where it is.

    Args:
        kind: Which fault.
        message: One line with numbers, for this data set.
        names: Items concerned, worst first where there is an order; empty if it is the data set
            as a whole.
        remarks: What is special about an item, by name.
        details: What the repair of an item needs, by name.
    """

    kind: Kind
    message: str
    names: tuple[str, ...]
    remarks: Mapping[str, str]
    details: Mapping[str, Any] = field(compare=False)

    @property
    def code(self) -> str:
        """Name of the kind."""
        return self.kind.code

    @property
    def severity(self) -> Severity:
        """How bad the kind is."""
        return self.kind.severity

    @property
    def fix(self) -> str | None:
        """What `fix_dataset` does about it; None if nothing."""
        return self.kind.fix


class Notes:
    """Collects what is wrong while a data set is examined."""

    def __init__(self) -> None:
        self._remarks: dict[str, dict[str, list[str]]] = {}
        self._messages: dict[str, list[str]] = {}
        self._details: dict[str, dict[str, Any]] = {}

    def add(self, code: str, name: str, remark: str = "", *, detail: Any = None) -> None:
        """Note that an item has a fault, perhaps one more of the same kind.

        Args:
            code: Which kind of fault.
            name: Of the item.
            remark: What is special about it.
            detail: What the repair needs; replaces an earlier one.
        """
        self._remarks.setdefault(code, {}).setdefault(name, []).extend([remark] if remark else [])
        self._details.setdefault(code, {})[name] = detail

    def say(self, code: str, message: str) -> None:
        """Note a fault of the data set as a whole, or numbers about those of its items."""
        self._messages.setdefault(code, []).append(message)

    def names(self, code: str) -> tuple[str, ...]:
        """Return the items that have a fault."""
        return tuple(self._remarks.get(code, {}))

    def make_findings(self, kinds: Iterable[Kind]) -> tuple[Finding, ...]:
        """Return a finding of each kind that was noted, errors first, else in the kinds' order."""
        noted = {*self._remarks, *self._messages}
        ordered = sorted(kinds, key=lambda kind: SEVERITIES.index(kind.severity))
        return tuple(self._make_finding(kind) for kind in ordered if kind.code in noted)

    def _make_finding(self, kind: Kind) -> Finding:
        lists = self._remarks.get(kind.code, {})
        remarks = {name: ", ".join(texts) for name, texts in lists.items() if texts}
        counts = Counter(remarks.values())
        messages = list(self._messages.get(kind.code, []))
        if 1 < len(lists) and 0 < len(counts) <= min(_MAX_COUNTED, len(lists) - 1):
            messages += [f"{number} x {remark}" for remark, number in counts.most_common()]
        text = f"{kind.title}: {len(lists)}" if lists else kind.title
        return Finding(
            kind=kind,
            message=f"{text} ({'; '.join(messages)})" if messages else text,
            names=tuple(lists),
            remarks=remarks,
            details=self._details.get(kind.code, {}),
        )


@dataclass(frozen=True)
class ClassFrequency:
    """How much there is of a class."""

    name: str
    share_of_images: float  # share of the masks that hold it, 0..1
    share_of_pixels: float  # share of all pixels, 0..1


@dataclass(frozen=True)
class Statistics:
    """Numbers about a data set."""

    num_images: int  # files below images/
    num_masks: int  # files below masks/
    num_cameras: int  # entries of labels
    num_captions: int  # captions that are not empty
    num_examined: int  # names whose files were read
    sizes: tuple[tuple[tuple[int, int], int], ...]  # how many images have which, most first
    class_frequencies: tuple[ClassFrequency, ...]
    yaws: tuple[float, ...]  # of all usable cameras, radians, 0 is frontal, positive towards +x
    pitches: tuple[float, ...]  # of the same cameras, radians, positive from above
    distance: float | None  # median of the cameras' from the origin, world units
    focal: float | None  # median focal length over image size


@dataclass(frozen=True)
class Diagnosis:
    """Everything the doctor found.

    Args:
        path: The data set.
        label_set: Meaning of the ids; None if it is neither named nor given.
        findings: Errors first.
        statistics: Numbers.
        files: Image file and mask file of each name, relative to the data set.
        cameras: Camera of each name as it is stored.
        captions: Caption of each name that has one.
        index: `dataset.json` as far as it could be read.
        typical: Names without a finding of their own, from left to right poses.
    """

    path: Path | str
    label_set: LabelSet | None
    findings: tuple[Finding, ...]
    statistics: Statistics
    files: Mapping[str, tuple[str | None, str | None]]
    cameras: Mapping[str, tuple[float, ...]]
    captions: Mapping[str, str]
    index: Mapping[str, Any]
    typical: tuple[str, ...]

    def by_severity(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def find(self, code: str) -> Finding | None:
        """Return the finding of a kind, if there is one."""
        return next((finding for finding in self.findings if finding.code == code), None)


def exit_code(diagnosis: Diagnosis) -> int:
    """Return 0 if there are neither errors nor warnings, 1 otherwise; notes do not count."""
    return int(any(finding.severity != "note" for finding in diagnosis.findings))
