"""The developers' snapshot, read once for each file of tests."""

import pytest

from mate3d.published.networks import PublishedNetwork, read_networks
from mate3d.published.verify import Expected, load_expected
from tests.golden import EXPECTED, SNAPSHOT


@pytest.fixture(scope="module")
def networks() -> dict[str, PublishedNetwork]:
    """The snapshot's networks."""
    return read_networks(SNAPSHOT)


@pytest.fixture(scope="module")
def expected() -> Expected:
    """What it holds and renders."""
    return load_expected(EXPECTED)
