"""Results of the doctor: findings, statistics, diagnosis."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mate3d.labels import LabelSet
from training.data.doctor.catalogue import CATALOGUE, Kind, Severity

_MAX_COUNTED = 4


@dataclass
class Finding:
    """One kind of fault, and the items that have it."""

    kind: Kind
    # Data for the repair, by name of each affected item, worst first if there is an order; empty
    # if the dataset as a whole is affected.
    details: dict[str, Any] = field(default_factory=dict, compare=False)
    remarks: dict[str, str] = field(default_factory=dict)  # remarks on items, by name
    numbers: list[str] = field(default_factory=list)  # remarks on the dataset

    @property
    def code(self) -> str:
        """Key of `CATALOGUE`."""
        return self.kind.code

    @property
    def names(self) -> tuple[str, ...]:
        """Affected items."""
        return tuple(self.details)

    @property
    def message(self) -> str:
        """One line with numbers for this dataset."""
        title = f"{self.kind.title}: {len(self.names)}" if self.names else self.kind.title
        return f"{title} ({self.comment})" if self.comment else title

    @property
    def comment(self) -> str:
        """Remarks on this dataset; those on items are counted if few of them differ."""
        counts = Counter(self.remarks.values())
        is_short = len(counts) <= min(_MAX_COUNTED, len(self.remarks) - 1)
        counted = [f"{number} x {one}" for one, number in counts.most_common() if is_short]
        return "; ".join([*self.numbers, *counted])


class Notes:
    """Collects findings while a dataset is examined."""

    def __init__(self) -> None:
        self.all = {code: Finding(kind) for code, kind in CATALOGUE.items()}

    def add(self, code: str, name: str, remark: str = "", *, detail: Any = None) -> None:
        """Record a fault of an item; it may have several of the same kind.

        Args:
            detail: Data for the repair; replaces earlier data.
        """
        finding = self.all[code]
        finding.details[name] = detail
        if remark:
            earlier = finding.remarks.get(name)
            finding.remarks[name] = f"{earlier}, {remark}" if earlier else remark

    def say(self, code: str, numbers: str) -> None:
        """Record a fault of the dataset as a whole, or numbers about faults of its items."""
        self.all[code].numbers.append(numbers)

    def findings(self) -> tuple[Finding, ...]:
        """Return the recorded findings, in the catalogue's order."""
        return tuple(one for one in self.all.values() if one.details or one.numbers)


@dataclass(frozen=True)
class ClassFrequency:
    """Frequency of a class."""

    name: str
    share_of_images: float  # fraction of masks that contain it, 0..1
    share_of_pixels: float  # fraction of all pixels, 0..1


@dataclass(frozen=True)
class Statistics:
    """Statistics of a dataset."""

    num_images: int  # files in images/
    num_masks: int  # files in masks/
    num_cameras: int  # entries of labels
    num_captions: int  # non-empty captions
    num_examined: int  # names whose files were read
    sizes: tuple[tuple[tuple[int, int], int], ...]  # image sizes and their counts, most first
    class_frequencies: tuple[ClassFrequency, ...]
    yaws: tuple[float, ...]  # of all usable cameras, radians, 0 is frontal, positive towards +x
    pitches: tuple[float, ...]  # of the same cameras, radians, positive from above
    distance: float | None  # median distance of the cameras from the origin, world units
    focal: float | None  # median focal length divided by the image size


@dataclass(frozen=True)
class Diagnosis:
    """The complete result of an examination."""

    path: Path | str
    label_set: LabelSet | None  # meaning of the ids; None if unknown
    findings: tuple[Finding, ...]  # errors first
    statistics: Statistics
    # Image file and mask file of each name, relative to the dataset.
    files: Mapping[str, tuple[str | None, str | None]]
    cameras: Mapping[str, tuple[float, ...]]  # as stored
    captions: Mapping[str, str]
    index: Mapping[str, Any]  # readable parts of `dataset.json`
    typical: tuple[str, ...]  # names without individual findings, from left to right poses

    def by_severity(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.kind.severity == severity)

    def find(self, code: str) -> Finding | None:
        """Return the finding with a code, if there is one."""
        return next((finding for finding in self.findings if finding.code == code), None)


def exit_code(diagnosis: Diagnosis) -> int:
    """Return 0 if there are neither errors nor warnings, 1 otherwise; notes do not count."""
    return int(any(finding.kind.severity != "note" for finding in diagnosis.findings))
