"""What the doctor says: findings, statistics, diagnosis."""

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
    """One kind of fault and where it is."""

    kind: Kind
    # What the repair of an item needs, by the name of each item concerned, worst first where there
    # is an order; empty if it is the data set as a whole.
    details: dict[str, Any] = field(default_factory=dict, compare=False)
    remarks: dict[str, str] = field(default_factory=dict)  # what is special about an item, by name
    numbers: list[str] = field(default_factory=list)  # what is special about this data set

    @property
    def code(self) -> str:
        """Key of `CATALOGUE`."""
        return self.kind.code

    @property
    def severity(self) -> Severity:
        """How bad this kind is."""
        return self.kind.severity

    @property
    def fix(self) -> str | None:
        """What `fix_dataset` does about it; None if nothing."""
        return self.kind.fix

    @property
    def names(self) -> tuple[str, ...]:
        """Items concerned."""
        return tuple(self.details)

    @property
    def message(self) -> str:
        """One line with numbers, for this data set."""
        title = f"{self.kind.title}: {len(self.names)}" if self.names else self.kind.title
        return f"{title} ({self.comment})" if self.comment else title

    @property
    def comment(self) -> str:
        """What is special about this data set; remarks are counted if few of them differ."""
        counts = Counter(self.remarks.values())
        is_short = len(counts) <= min(_MAX_COUNTED, len(self.remarks) - 1)
        counted = [f"{number} x {one}" for one, number in counts.most_common() if is_short]
        return "; ".join([*self.numbers, *counted])


class Notes:
    """Collects what is wrong while a data set is examined."""

    def __init__(self) -> None:
        self.all = {code: Finding(kind) for code, kind in CATALOGUE.items()}

    def add(self, code: str, name: str, remark: str = "", *, detail: Any = None) -> None:
        """Note that an item has a fault, perhaps one more of the same kind.

        Args:
            code: Which kind of fault.
            name: Of the item.
            remark: What is special about it.
            detail: What the repair needs; replaces an earlier one.
        """
        finding = self.all[code]
        finding.details[name] = detail
        if remark:
            earlier = finding.remarks.get(name)
            finding.remarks[name] = f"{earlier}, {remark}" if earlier else remark

    def say(self, code: str, numbers: str) -> None:
        """Note a fault of the data set as a whole, or numbers about those of its items."""
        self.all[code].numbers.append(numbers)

    def findings(self) -> tuple[Finding, ...]:
        """Return what was noted so far, in the catalogue's order."""
        return tuple(one for one in self.all.values() if one.details or one.numbers)


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
    """Everything the doctor found."""

    path: Path | str
    label_set: LabelSet | None  # meaning of the ids; None if it is neither named nor given
    findings: tuple[Finding, ...]  # errors first
    statistics: Statistics
    # Image file and mask file of each name, relative to the data set.
    files: Mapping[str, tuple[str | None, str | None]]
    cameras: Mapping[str, tuple[float, ...]]  # as they are stored
    captions: Mapping[str, str]
    index: Mapping[str, Any]  # `dataset.json` as far as it could be read
    typical: tuple[str, ...]  # names without a finding of their own, from left to right poses

    def by_severity(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def find(self, code: str) -> Finding | None:
        """Return the finding of a kind, if there is one."""
        return next((finding for finding in self.findings if finding.code == code), None)


def exit_code(diagnosis: Diagnosis) -> int:
    """Return 0 if there are neither errors nor warnings, 1 otherwise; notes do not count."""
    return int(any(finding.severity != "note" for finding in diagnosis.findings))
