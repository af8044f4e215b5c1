"""Every kind of fault is found by name, and nothing else is reported."""

import pytest

from mate3d.errors import UserError
from tests.training.data.doctor import camera_faults, file_faults, mask_faults  # noqa: F401
from tests.training.data.doctor.fault import FAULTS, Fault
from training.data.doctor import check_dataset, exit_code, fix_dataset
from training.data.doctor.catalogue import CATALOGUE

NOTES = {"few_images", "class_never"}


def test_every_kind_of_finding_has_a_fault_that_shows_it() -> None:
    shown = {fault.code for fault in FAULTS} | {code for f in FAULTS for code in f.follows}
    assert set(CATALOGUE) - shown == NOTES | {"pose_imbalance"}


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_found_with_its_names_and_nothing_else(open_copy, fault: Fault) -> None:
    data = open_copy(fault.kind)
    names = fault.break_data(data)
    diagnosis = check_dataset(data.path)
    codes = {finding.code for finding in diagnosis.findings}
    assert fault.code in codes
    assert codes <= {fault.code} | fault.follows | NOTES
    assert sorted(diagnosis.find(fault.code).names) == sorted(names)
    assert exit_code(diagnosis) == int(CATALOGUE[fault.code].severity != "note")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_after_all_repairs_only_what_cannot_be_repaired_is_left(
    open_copy, tmp_path, fault: Fault
) -> None:
    data = open_copy(fault.kind)
    fault.break_data(data)
    output = tmp_path / "repaired"
    if fault.remains is None:
        with pytest.raises(UserError, match="cannot be repaired|does not name|nothing of"):
            fix_dataset(data.path, "all", output)
        assert not output.exists()
        return
    fix_dataset(data.path, "all", output)
    left = {f.code for f in check_dataset(output).findings if f.severity != "note"}
    assert left == fault.remains
