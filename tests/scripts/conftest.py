"""What tests of several scripts share."""

from pathlib import Path

import pytest

from scripts import prepare_data


@pytest.fixture(scope="session")
def cats(tmp_path_factory) -> Path:
    """The dataset that debug=tiny of train is made for."""
    folder = tmp_path_factory.mktemp("cats")
    prepare_data.main(["debug=tiny", f"output={folder / 'data'}", f"paths.outputs={folder}"])
    return folder / "data"
