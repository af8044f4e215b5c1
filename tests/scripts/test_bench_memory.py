"""The memory benchmark's last line is what readers parse; its line fits what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_memory.py"


def test_figures_have_their_names_and_the_line_fits_them():
    words = ["batch_sizes=1,2", "variants=fp32", "options=debug=tiny"]
    command = [sys.executable, str(SCRIPT), "experiment=small_cat", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(result.stdout.splitlines()[-1])
    measured, fit = document["fp32"], document["fits"]["fp32"]
    assert len(measured["peak_gib"]) == 2
    assert all(
        peak >= held > 0
        for peak, held in zip(measured["peak_gib"], measured["held_gib"], strict=True)
    )
    for batch_size, peak in zip(document["batch_sizes"], measured["peak_gib"], strict=True):
        found = fit["fixed_gib"] + fit["image_gib"] * batch_size
        assert found == pytest.approx(peak, abs=fit["largest_error_gib"] + 0.003)


def test_unknown_variants_are_named():
    command = [sys.executable, str(SCRIPT), "variants=fp32,fp8"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "error: variants=fp32,fp8; use any of fp32, bf16, fp16" in result.stderr
