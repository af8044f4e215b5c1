"""The benchmark of the operations runs and reports what its documentation says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "bench_ops.py"


def test_last_line_is_json_with_rates_and_limits(tmp_path):
    words = ["size=reduced", "runs=1", "cases=gradient", f"output={tmp_path / 'ops.json'}"]
    run = subprocess.run(
        [sys.executable, str(BENCHMARK), *words], check=True, capture_output=True, text=True
    )
    document = json.loads(run.stdout.splitlines()[-1])
    assert document == json.loads((tmp_path / "ops.json").read_text())
    assert document["copy_gb_per_second"] > 0
    entry = document["cases"]["triplane_sample gradient of planes, float32"]
    assert {"seconds_fast", "seconds_slow", "speedup", "bytes", "share_of_limit"} <= entry.keys()
    assert entry["share_of_cache_limit"] > 0
    assert len(document["cases"]) == 4
