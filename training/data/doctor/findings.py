"""What the doctor says: findings, statistics, diagnosis."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mate3d.labels import LabelSet
from training.data.doctor.catalogue import CATALOGUE
from training.data.doctor.kind import SEVERITIES, Severity


@dataclass(frozen=True)
class Finding:
    """One kind of fault and where it is.

    Args:
        code: Key of `CATALOGUE`.
        message: One line with numbers, for this data set.
        names: Items concerned, worst first where there is an order; empty if it is the data set
            as a whole.
        fix: What `fix_dataset` does about it; None if nothing.
        details: Numbers and names that the repair needs.
        remarks: What is special about an item, by name.
    """

    code: str
    message: str
    names: tuple[str, ...] = ()
    fix: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)

    @property
    def severity(self) -> Severity:
        """How bad this kind is."""
        return CATALOGUE[self.code].severity


def make_finding(
    code: str,
    names: Iterable[str] = (),
    message: str = "",
    *,
    is_fixable: bool = True,
    details: Mapping[str, Any] | None = None,
    remarks: Mapping[str, str] | None = None,
) -> Finding:
    """Make a finding of a kind in the catalogue.

    Args:
        code: Which kind.
        names: Items concerned.
        message: What to say beyond title and count.
        is_fixable: False if the usual repair cannot work here.
        details: What the repair needs.
        remarks: What is special about an item.
    """
    kind, names = CATALOGUE[code], tuple(names)
    text = f"{kind.title}: {len(names)}" if names else kind.title
    return Finding(
        code=code,
        message=f"{text} ({message})" if message else text,
        names=names,
        fix=(kind.fix or None) if is_fixable else None,
        details=details or {},
        remarks=remarks or {},
    )


@dataclass(frozen=True)
class ClassFrequency:
    """How much there is of a class.

    Args:
        name: Class name.
        share_of_images: Share of the masks that hold it, 0..1.
        share_of_pixels: Share of all pixels, 0..1.
    """

    name: str
    share_of_images: float
    share_of_pixels: float


@dataclass(frozen=True)
class Statistics:
    """Numbers about a data set.

    Args:
        num_images: Files below `images/`.
        num_masks: Files below `masks/`.
        num_cameras: Entries of `labels`.
        num_captions: Captions that are not empty.
        num_examined: Names whose files were read.
        sizes: How many images have which size, the most frequent first.
        class_frequencies: One a class.
        yaws: Of all usable cameras, radians, 0 is frontal, positive towards +x.
        pitches: Of the same cameras, radians, positive from above.
        distance: Median distance of the cameras from the origin, world units; None without any.
        focal: Median focal length over image size.
    """

    num_images: int
    num_masks: int
    num_cameras: int
    num_captions: int
    num_examined: int
    sizes: tuple[tuple[tuple[int, int], int], ...]
    class_frequencies: tuple[ClassFrequency, ...]
    yaws: tuple[float, ...]
    pitches: tuple[float, ...]
    distance: float | None
    focal: float | None


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


def sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort by severity, then in the catalogue's order."""
    order = list(CATALOGUE)
    return tuple(
        sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), order.index(f.code)))
    )


def exit_code(diagnosis: Diagnosis) -> int:
    """Return 0 if there are neither errors nor warnings, 1 otherwise; notes do not count."""
    return int(any(finding.severity != "note" for finding in diagnosis.findings))
