"""Metrics of a tiny generator: exact repeats, processes, cached features, and error lines."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mate3d.checkpoint import save_generator
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.metrics.feature_network import (
    FeatureNetwork,
    FeatureNetworkConfig,
    save_feature_network,
)
from mate3d.metrics.frechet import frechet_distance
from scripts import evaluate
from tests.processes import run_launched
from tests.training.data.shard_data import edit_json, write_shards
from torch_utils.distributed import distributed, is_main
from training.data.dataset import PortraitDataset
from training.evaluation import MetricSettings, TrainingEvaluator, judges, real_features

CPU = torch.device("cpu")


@pytest.fixture
def network_folder(tmp_path):
    torch.manual_seed(1)
    config = FeatureNetworkConfig(
        attributes=("a",),
        label_sets=("catmask_hq",),
        resolution=16,
        channels=(4, 6, 8, 8),
        num_features=4,
        head_channels=8,
    )
    network = FeatureNetwork(config)
    save_feature_network(tmp_path / "network", network, card="")
    return tmp_path / "network"


@pytest.fixture
def procedural_folder(dataset_folder):
    """The noise dataset, which says of itself that it was computed."""
    preparation = {"dataset": {"name": "procedural_cat"}}
    edit_json(dataset_folder / "dataset.json", lambda index: index.update(preparation=preparation))
    return dataset_folder


@pytest.fixture
def settings(network_folder):
    return MetricSettings(
        str(network_folder), num_samples=5, batch_size=2, eikonal_heads=3, interval=2
    )


@pytest.fixture
def measure(procedural_folder, tiny_generator, tmp_path):
    def run(settings, seed=0, generator=tiny_generator):
        dataset = PortraitDataset(procedural_folder)
        evaluator = TrainingEvaluator(settings, dataset, CPU, tmp_path / "cache")
        return evaluator.measure(generator, dataset.camera_labels, seed)

    return run


def test_all_metrics_have_their_names_and_repeat_exactly(measure, settings):
    before = torch.get_rng_state()
    values = measure(settings)
    names = ("fid_procedural", "kid_procedural", "miou", "eikonal_residual")
    assert set(values) == {f"Metrics/{name}" for name in names}
    assert values["Metrics/fid_procedural"] > 0 and 0 <= values["Metrics/miou"] <= 1
    assert measure(settings) == values
    assert measure(settings, seed=1) != values
    assert torch.equal(torch.get_rng_state(), before)


def test_neither_batches_nor_noise_of_images_change_the_values(measure, settings, tiny_generator):
    whole = measure(replace(settings, batch_size=5))
    assert whole == pytest.approx(measure(settings), rel=1e-3)
    config = replace(tiny_generator.config, sr_noise_mode="random")
    noisy = Generator(config).eval().requires_grad_(False)
    assert measure(settings, generator=noisy) == measure(settings, generator=noisy)


def test_fid_compares_features_of_the_data_with_those_of_generated_images(
    measure, settings, procedural_folder, tmp_path, monkeypatch
):
    dataset = PortraitDataset(procedural_folder)
    judge = judges.choose_features(settings, dataset, CPU)
    seen = []
    real_forward = FeatureNetwork.forward
    monkeypatch.setattr(
        FeatureNetwork, "forward", lambda self, x: seen.append(x) or real_forward(self, x)
    )
    value = measure(replace(settings, names=("fid",)))["Metrics/fid_procedural"]
    images = torch.stack([dataset[index]["image"] for index in range(len(dataset))])
    fakes = torch.cat(seen[:-1])
    assert len(fakes) == 5 and torch.equal(seen[-1], images)
    expected = frechet_distance(judge.network(images), judge.network(fakes))
    assert value == pytest.approx(expected, rel=1e-4)


def test_real_features_are_computed_once_for_the_same_data(
    measure, settings, procedural_folder, tmp_path, caplog
):
    values = measure(settings)
    (cached,) = (tmp_path / "cache").iterdir()
    written = cached.stat().st_mtime_ns
    assert measure(settings) == values and cached.stat().st_mtime_ns == written
    cached.write_bytes(cached.read_bytes()[:40])
    assert measure(settings) == values and "is damaged" in caplog.text
    # Another image is another dataset.
    first, second = sorted((procedural_folder / "images").rglob("*.png"))[:2]
    shutil.copy(second, first)
    assert measure(settings) != values
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_cache_that_cannot_be_written_is_a_warning(measure, settings, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file in its place")
    assert "Metrics/fid_procedural" in measure(settings)
    assert "features of real images" in caplog.text


def test_two_processes_measure_what_one_does(
    measure, settings, procedural_folder, tiny_generator, tmp_path
):
    def measure_share():
        with distributed("cpu") as place:
            dataset = PortraitDataset(procedural_folder)
            evaluator = TrainingEvaluator(settings, dataset, CPU, tmp_path / "cache2")
            values = evaluator.measure(tiny_generator, dataset.camera_labels, 0)
            (tmp_path / f"{place.rank}.json").write_text(json.dumps(values))

    run_launched(measure_share)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second == pytest.approx(measure(settings), rel=1e-3)
    assert len(list((tmp_path / "cache2").iterdir())) == 1


def test_kept_features_of_any_size_reach_all_processes(tmp_path, monkeypatch):
    count, width = 5000, 600
    monkeypatch.setattr(real_features, "dataset_digest", lambda dataset: "digest")
    features = torch.randn(count, width)
    real_features._write(tmp_path / f"real_digest_f_w_{count}.safetensors", features)
    judge = judges.FeatureJudge("f", SimpleNamespace(num_features=width), "w")

    def read():
        with distributed("cpu"):
            # Only the main process has the file.
            folder = tmp_path if is_main() else tmp_path / "nowhere"
            options = {"num_real": None, "batch_size": 1, "device": CPU}
            found = real_features.real_features(range(count), judge, folder, **options)
            assert torch.equal(found, features)

    run_launched(read)


def test_only_what_is_asked_for_is_measured(measure, settings, network_folder, monkeypatch):
    shutil.rmtree(network_folder)
    monkeypatch.setattr(Generator, "render", None)
    values = measure(replace(settings, names=("eikonal",)))
    assert set(values) == {"Metrics/eikonal_residual"}


def test_photos_have_no_procedural_labels_and_a_warning_about_features(
    dataset_folder, settings, tmp_path, tiny_generator, caplog
):
    dataset = PortraitDataset(dataset_folder)
    wanted = replace(settings, features="procedural")
    evaluator = TrainingEvaluator(wanted, dataset, CPU, tmp_path / "cache")
    values = evaluator.measure(tiny_generator, dataset.camera_labels, 0)
    assert "Metrics/fid_procedural" in values and "Metrics/miou" not in values
    assert "procedural features" in caplog.text and "parsing_model" in caplog.text


def test_perfect_masks_agree_fully(measure, settings, monkeypatch, procedural_folder):
    # A judge that sees exactly the mask: both of an image's halves are classes of their own.
    half = torch.zeros(8, 8, dtype=torch.long)
    half[:, 4:] = 2
    place = "training.evaluation.evaluator"
    judge = lambda images: half.expand(len(images), 8, 8)  # noqa: E731
    monkeypatch.setattr(f"{place}.choose_labels", lambda *arguments: judge)
    monkeypatch.setattr(f"{place}.mask_at", lambda segmentation, side: judge(segmentation))
    assert measure(replace(settings, names=("miou",))) == {"Metrics/miou": 1.0}


def test_snapshots_to_measure_at(settings):
    assert [settings.is_due(number) for number in (1, 2, 3, 4)] == [False, True, False, True]
    assert settings.is_due(3, is_last=True)
    assert not replace(settings, interval=0).is_due(2, is_last=True)
    assert not replace(settings, names=()).is_due(2)


@pytest.mark.parametrize("features", ["auto", "inception"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "metrics.inception_weights=.*metrics.names="),
        ("none.pth", "none.pth"),
        ("bad.pth", "bad.pth"),
    ],
)
def test_missing_inception_weights_are_one_line(
    dataset_folder, settings, tmp_path, monkeypatch, features, name, message
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    weights = None if name is None else str(tmp_path / name)
    wanted = replace(settings, features=features, inception_weights=weights)
    dataset = PortraitDataset(dataset_folder)
    with pytest.raises(UserError, match=message):
        TrainingEvaluator(wanted, dataset, CPU, tmp_path)
    TrainingEvaluator(replace(wanted, names=("miou", "eikonal")), dataset, CPU, tmp_path)


def test_script_compares_a_checkpoint_with_a_data_set(
    procedural_folder, tiny_generator, network_folder, tmp_path, capsys
):
    save_generator(tmp_path / "model", tiny_generator)
    words = [
        "debug=tiny",
        f"generator={tmp_path / 'model'}",
        f"data={procedural_folder}",
        f"cache={tmp_path / 'cache'}",
        f"metrics.procedural_network={network_folder}",
        f"output={tmp_path / 'out'}",
    ]
    evaluate.main(words)
    text = (tmp_path / "out" / "metrics.json").read_text()
    for name in ("fid_procedural", "kid_procedural", "miou", "eikonal_residual"):
        assert f"Metrics/{name}" in text
    people = write_shards(tmp_path / "people", side=16)
    for word, message in (
        ("metrics=none", "metrics.names=[]; use at least one metric, such as [fid]"),
        (f"data={people}", "has labels celebamask_hq, but the generator has catmask_hq"),
    ):
        with pytest.raises(SystemExit) as end:
            evaluate.main([*words, word])
        assert end.value.code == 2 and message in capsys.readouterr().err
