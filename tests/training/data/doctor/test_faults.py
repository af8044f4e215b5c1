"""Every kind of fault is found by name, and repaired where it can be."""

from pathlib import Path

import numpy as np
import pytest

from mate3d.errors import UserError
from tests.training.data.doctor.broken import Fault, OpenDataset
from tests.training.data.doctor.camera_faults import CAMERA_FAULTS
from tests.training.data.doctor.file_faults import FILE_FAULTS
from tests.training.data.doctor.mask_faults import MASK_FAULTS
from training.data.doctor import check_dataset, exit_code, fix_dataset
from training.data.doctor.catalogue import CATALOGUE, LEAVES_OUT

FAULTS = {
    f"{fault.code}-{name}": fault
    for faults in (FILE_FAULTS, MASK_FAULTS, CAMERA_FAULTS)
    for name, fault in faults.items()
}


def test_every_kind_of_finding_has_a_fault_that_shows_it() -> None:
    assert {fault.code for fault in FAULTS.values()} == set(CATALOGUE) - {"few_examples"}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_fault_is_found_with_its_names_and_repaired(
    open_copy, clean_dataset, tmp_path, fault: Fault
) -> None:
    data = open_copy(fault.kind)
    broken = data.names[: fault.number]
    listed = fault.break_data(data, broken)
    if data.index is not None:
        data.save_index()
    diagnosis = check_dataset(data.path)
    codes = {finding.code for finding in diagnosis.findings}
    assert fault.code in codes and codes <= {fault.code, *fault.follows, "few_examples"}
    assert sorted(diagnosis.find(fault.code).names) == sorted(broken if listed is None else listed)
    assert exit_code(diagnosis) == int(CATALOGUE[fault.code].severity != "note")
    output = tmp_path / "repaired"
    if fault.remains is None:
        with pytest.raises(UserError):
            fix_dataset(data.path, "all", output)
        assert not output.exists()
        return
    result = fix_dataset(data.path, "all", output)
    left_out = [one for one in diagnosis.findings if one.fix == LEAVES_OUT]
    assert result.dropped.keys() == {name for one in left_out for name in one.names}
    left = {one.code for one in check_dataset(output).findings if one.severity != "note"}
    assert left == set(fault.remains)
    _assert_equal(OpenDataset(output, data.label_set), clean_dataset(fault.kind), fault)


def _assert_equal(repaired: OpenDataset, clean: Path, fault: Fault) -> None:
    """Compare with the data set as it was before it was broken."""
    sound = OpenDataset(clean, repaired.label_set)
    cameras = dict(zip(sound.names, sound.cameras(), strict=True))
    for name, camera in zip(repaired.names, repaired.cameras(), strict=True):
        assert repaired.image(name).mode == "RGB" and repaired.image(name).size == (64, 64)
        assert (repaired.mask(name) != sound.mask(name)).mean() <= fault.mask_error, name
        if not fault.remains:
            np.testing.assert_allclose(camera, cameras[name], atol=1e-5)
