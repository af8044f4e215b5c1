"""The training benchmark compares equal iterations, and its last line is what readers parse."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def document() -> dict:
    words = ["preset=tiny", "neural_resolution=8", "batch_size=2", "variants=exact,fast,subset"]
    command = [sys.executable, str(BENCHMARKS / "bench_training.py"), *words]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def test_figures_have_their_names(document):
    names = {"seconds_exact", "seconds_fast", "peak_rss_gib", "peak_rss_gib_exact", "speedup"}
    assert names <= set(document)
    assert set(document["parts"]) == {"generator", "discriminator", "semantic_discriminator"}
    assert set(document["lazy_parts"]) == {"density_smoothness", "r1", "semantic_r1"}


def test_fast_losses_and_gradients_equal_the_exact_ones(document):
    assert max(document["relative_loss_differences"].values()) < 1e-4
    assert min(document["gradient_cosines"].values()) > 1 - 1e-6
    losses = document["losses_exact"]
    for term in ("G_eikonal", "G_g_minimal_surface", "G_sdf_consist_loss"):
        assert losses[f"Loss/{term}/loss"] > 1e-4


def test_unknown_variants_are_named():
    command = [sys.executable, str(BENCHMARKS / "bench_training.py"), "variants=exact,quick"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "error: variants=exact,quick" in result.stderr
