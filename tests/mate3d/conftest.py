"""The developers' snapshot, read once for each file of tests."""

import pytest
from safetensors.torch import load_file
from torch import Tensor

from mate3d.published.networks import PublishedNetwork, read_networks
from tests.golden import EXPECTED, SNAPSHOT


@pytest.fixture(scope="module")
def networks() -> dict[str, PublishedNetwork]:
    """The snapshot's networks."""
    return read_networks(SNAPSHOT)


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    """What it holds and renders."""
    return load_file(EXPECTED)
