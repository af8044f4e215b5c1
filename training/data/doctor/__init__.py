"""The dataset doctor: finds faults in a dataset, explains them, and repairs them.

`check_dataset` examines, `write_report` makes a page, `fix_dataset` writes a repaired copy.
"""

from training.data.doctor.check import check_dataset
from training.data.doctor.findings import Diagnosis, Finding, Statistics, exit_code
from training.data.doctor.fixes import FixResult, fix_dataset
from training.data.doctor.report import write_report

__all__ = [
    "Diagnosis",
    "Finding",
    "FixResult",
    "Statistics",
    "check_dataset",
    "exit_code",
    "fix_dataset",
    "write_report",
]
