"""The benchmark of the edit loop runs and reports what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_benchmark_reports_both_ways_as_json(tmp_path):
    command = [sys.executable, "benchmarks/bench_edit.py", "neural_resolution=16", "steps=1"]
    result = subprocess.run(
        [*command, "runs=1", f"output={tmp_path / 'edit.json'}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(result.stdout.splitlines()[-1])
    assert document == json.loads((tmp_path / "edit.json").read_text())
    for way in ("exact", "fast"):
        assert document[f"seconds_{way}"] > 0 and document["peak_rss_gib"][way]["step"] > 0
        assert all(document["parts"][way][part] > 0 for part in ("planes", "render", "final_view"))
    assert document["largest_differences"]["mask"]["relative"] < 1e-4
    assert document["least_gradient_cosine"] > 0.999
