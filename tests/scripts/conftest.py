"""What tests of several scripts share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import prepare_data


@pytest.fixture(scope="session")
def cats(tmp_path_factory) -> Path:
    """The data set that debug=tiny of train is made for."""
    folder = tmp_path_factory.mktemp("cats")
    prepare_data.main(["debug=tiny", f"output={folder / 'data'}", f"paths.outputs={folder}"])
    return folder / "data"


@pytest.fixture
def fail(capsys) -> Callable[..., str]:
    """Call a script with words that a user got wrong; return the one line that it ends with."""

    def call(main: Callable[[list[str]], None], *words: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as info:
            main(list(words))
        assert info.value.code == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith("error: ")
        return line

    return call
