"""The benchmarks' last line is what readers parse; it fits what they measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from mate3d.checkpoint import save_generator

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run_benchmark(name: str, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *words]
    return subprocess.run(command, capture_output=True, text=True)


def read_figures(name: str, *words: str) -> dict:
    result = run_benchmark(name, *words)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_memory_line_fits_what_was_measured():
    words = ["experiment=small_cat", "batch_sizes=1,2", "variants=fp32", "options=debug=tiny"]
    document = read_figures("bench_memory", *words)
    peaks, held = (document["fp32"][name] for name in ("peak_gib", "held_gib"))
    fit = document["fits"]["fp32"]
    for size, peak, least in zip(document["batch_sizes"], peaks, held, strict=True):
        assert peak >= least > 0
        found = fit["fixed_gib"] + fit["image_gib"] * size
        assert found == pytest.approx(peak, abs=fit["largest_error_gib"] + 0.003)


def test_three_ways_to_an_image_agree():
    words = ["preset=tiny", "neural_resolution=8", "runs=1"]
    document = read_figures("bench_generator", *words)
    assert document["largest_error_release_order"] < 1e-5 and document["psnr_db"] > 80
    for way in ("release_order", "exact", "fast"):
        assert document[f"seconds_{way}"] > 0 and document[f"peak_rss_gib_{way}"] > 0
    for ratios in ("times_as_fast_by_seconds", "share_of_memory"):
        assert set(document[ratios]) == {"exact", "fast"}


def test_the_release_order_leaves_nothing_out(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_generator

    device = torch.device("cpu")
    generator = bench_generator.make_generator("tiny", device)
    ws, camera = bench_generator.make_inputs(generator, device)
    with torch.no_grad(), torch.profiler.profile() as profile:
        bench_generator.synthesize(generator, ws, camera, 8, "release_order")
    calls = {event.key: event.count for event in profile.key_averages()}
    num_classes, passes, plane_sets = 6, 2, 2
    assert calls["aten::grid_sampler_2d"] == passes * plane_sets
    # An MLP each for colour, the whole and every class; then coarse and fine marches.
    num_marches = 1 + (1 + num_classes + 1)
    assert calls["aten::softplus"] == passes * (2 + num_classes) + num_marches


def test_training_compares_equal_iterations():
    words = ["preset=tiny", "neural_resolution=8", "batch_size=2"]
    document = read_figures("bench_training", *words, "variants=release_order,exact,fast,subset")
    names = {f"{kind}_{way}" for kind in ("seconds", "peak_rss_gib") for way in document["parts"]}
    assert names <= set(document)
    parts, lazy_parts = document["parts"]["fast"], document["lazy_parts"]["fast"]
    assert set(parts) == {"generator", "discriminator", "semantic_discriminator"}
    assert set(lazy_parts) == {"density_smoothness", "r1", "semantic_r1"}
    for way in ("release_order", "fast"):
        differences = document["differences_from_exact"][way]
        assert max(differences["relative_loss_differences"].values()) < 1e-4
        assert min(differences["gradient_cosines"].values()) > 1 - 1e-6
    for term in ("G_eikonal", "G_g_minimal_surface", "G_sdf_consist_loss"):
        assert document["losses_exact"][f"Loss/{term}/loss"] > 1e-4


def test_edits_are_compared_and_the_line_is_the_file(tmp_path):
    words = ["neural_resolution=16", "steps=1", "runs=1", f"output={tmp_path / 'edit.json'}"]
    document = read_figures("bench_edit", *words)
    assert document == json.loads((tmp_path / "edit.json").read_text())
    for way in ("exact", "fast"):
        assert document[f"seconds_{way}"] > 0 and document["peak_rss_gib"][way]["step"] > 0
        assert all(document["parts"][way][part] > 0 for part in ("planes", "render", "final_view"))
    assert document["largest_differences"]["mask"]["relative"] < 1e-4
    assert document["least_gradient_cosine"] > 0.999


def test_sharper_surfaces_come_closer_to_the_exact_picture(tmp_path):
    words = ["experiment=small_cat", "betas=[0.1,0.01,0.001]", "resolution=16", "heads=1"]
    document = read_figures("bench_ceiling", *words, f"output={tmp_path / 'ceiling.json'}")
    assert document == json.loads((tmp_path / "ceiling.json").read_text())
    fog, soft, sharp = document["rows"]
    assert fog["psnr_db"] < 12 < soft["psnr_db"] < sharp["psnr_db"]
    assert fog["miou"] < soft["miou"] < sharp["miou"]
    assert fog["opacity_empty"] > 0.5 > soft["opacity_empty"] > sharp["opacity_empty"]
    assert fog["samples_in_layer"] > 1 > sharp["samples_in_layer"]
    (trained,) = read_figures("bench_ceiling", "generator=demo_cat", "heads=1")["rows"]
    assert trained["opacity_empty"] < 0.05 and trained["opacity_head"] > 0.95
    result = run_benchmark("bench_ceiling", "generator=demo_cat", "rendering.near=2")
    assert result.returncode == 1 and "rendering.near=2" in result.stderr


@pytest.mark.parametrize("name", ["bench_memory", "bench_training"])
def test_unknown_variants_are_named(name):
    result = run_benchmark(name, "variants=quick")
    assert result.returncode == 1 and "error: variants=quick" in result.stderr


def test_operations_have_rates_and_limits(tmp_path):
    words = ["size=reduced", "runs=1", "cases=gradient", f"output={tmp_path / 'ops.json'}"]
    document = read_figures("bench_ops", *words)
    assert document == json.loads((tmp_path / "ops.json").read_text())
    assert document["copy_gb_per_second"] > 0
    entry = document["cases"]["triplane_sample gradient of planes, fp32"]
    assert {"seconds_fast", "seconds_slow", "speedup", "bytes", "share_of_limit"} <= entry.keys()
    assert entry["share_of_cache_limit"] > 0
    assert len(document["cases"]) == 4


def test_a_table_of_edits_has_rows_sheets_and_the_priors_own_samples(tmp_path):
    plan = yaml.safe_load((BENCHMARKS / "edits.yaml").read_text())
    plan |= {"seeds": [2], "samples": {"count": 2, "steps": 2, "guidance_scale": 3.0}}
    plan["runs"] = {"short": {"words": ["edit.num_steps=1"], "seeds": 1}}
    (tmp_path / "list.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    words = [f"list={tmp_path / 'list.yaml'}", "edits=blue eyes,no ears", f"output={tmp_path}"]
    result = run_benchmark("edit_table", *words)
    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "edits.json").read_text())
    eyes, ears = document["edits"]
    assert set(eyes["agreement"]) == set(eyes["prior"]) == {"eyes blue"}
    assert eyes["repainted"] is None and 0 <= ears["repainted"] <= 1
    for row in (eyes, ears):
        assert row["kept"] > 0.9 and row["network"] > 0.5 and row["seconds_at_reference"] > 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"compare.png", "sheet_short.png"}
    text = next(tmp_path.glob("*.md")).read_text()
    assert text.count("| short |") == 2 and "eyes blue" in text
    # Edits that are there are not run again.
    before = (tmp_path / "short/blue_eyes_2/receipt.json").stat().st_mtime_ns
    assert run_benchmark("edit_table", *words).returncode == 0
    assert (tmp_path / "short/blue_eyes_2/receipt.json").stat().st_mtime_ns == before


def test_only_bf16_for_all_networks_changes_distances(tiny_generator, tmp_path):
    save_generator(tmp_path / "tiny", tiny_generator)
    document = read_figures("bench_precision", f"generators={tmp_path / 'tiny'}", "num_heads=1")
    tf32, mixed, bf16 = document["rows"]
    assert 0 == mixed["gradient_shift"] < tf32["gradient_shift"] < bf16["gradient_shift"]
    assert tf32["image_psnr"] > mixed["image_psnr"] > 40
    assert mixed["raw_psnr"] is None
