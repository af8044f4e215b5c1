"""The newest and the best checkpoints stay, whole, and nothing else of the user's goes."""

import json
from unittest.mock import Mock

import pytest

from training.run_folder.retention import keep_checkpoints, rank_checkpoints
from training.run_folder.safety import SafetySettings


@pytest.fixture
def keep(tmp_path):
    """Return a function that writes a checkpoint, applies the rule and names what is kept."""

    def write_and_keep(images_seen, settings, **metrics):
        (tmp_path / "checkpoint").mkdir(exist_ok=True)
        weights = tmp_path / "checkpoint" / "generator.safetensors"
        weights.unlink(missing_ok=True)
        weights.write_text(str(images_seen))
        (tmp_path / "checkpoint" / "card.md").write_text(str(images_seen))
        values = {f"Metrics/{name}": value for name, value in metrics.items()}
        keep_checkpoints(tmp_path, images_seen, {"Loss/G/loss": 1.0, **values}, settings)
        folder = tmp_path / "checkpoints"
        for path in folder.glob("0*"):
            for name in ("generator.safetensors", "card.md"):
                assert (path / name).read_text() == str(int(path.name))
        return sorted(int(path.name) for path in folder.glob("0*"))

    return write_and_keep


def test_newest_and_best_stay(keep, tmp_path):
    settings = SafetySettings(keep_last=2, keep_best=1)
    scores = {1: 9.0, 2: 3.0, 3: 5.0, 4: 4.0, 5: float("nan")}
    for images, score in scores.items():
        kept = keep(images, settings, fid_procedural=score, miou=0.5)
    assert kept == [2, 4, 5]
    assert json.loads((tmp_path / "checkpoints" / "metrics.json").read_text()) == {
        "000000002": {"fid_procedural": 3.0, "miou": 0.5},
        "000000004": {"fid_procedural": 4.0, "miou": 0.5},
        "000000005": {"miou": 0.5},
    }
    assert keep(6, settings) == [2, 5, 6]
    assert keep(7, settings, fid_procedural=3.0) == [6, 7]


def test_all_or_none_can_be_kept(keep):
    nothing = SafetySettings(keep_last=0, keep_best=0)
    assert [keep(images, nothing, fid=1.0) for images in (1, 2)] == [[], []]
    everything = SafetySettings(keep_last=None)
    assert [keep(images, everything) for images in (1, 2, 3)][-1] == [1, 2, 3]
    assert keep(4, SafetySettings(keep_last=0, keep_best=1), miou=0.5) == []


def test_neither_a_run_that_went_back_nor_files_of_the_user_do_harm(keep, tmp_path):
    settings = SafetySettings(keep_last=1, keep_best=0)
    keep(8, settings)
    (tmp_path / "checkpoints" / "the good one").mkdir()
    (tmp_path / "checkpoints" / "metrics.json").write_text('{"00')
    # What lies ahead is not the newest.
    assert keep(6, settings) == [6]
    assert (tmp_path / "checkpoints" / "the good one").is_dir()


@pytest.mark.parametrize("has_links", [True, False])
def test_weights_are_linked_or_copied(keep, tmp_path, monkeypatch, has_links):
    if not has_links:
        refuse = Mock(side_effect=PermissionError)
        monkeypatch.setattr("training.run_folder.retention.os.link", refuse)
    assert keep(1, SafetySettings()) == [1]
    path = tmp_path / "checkpoints" / "000000001"
    assert (path / "generator.safetensors").stat().st_nlink == 1 + has_links
    assert (path / "card.md").stat().st_nlink == 1


def test_ranking_knows_the_direction_and_the_feature_network():
    first = {"fid_inception": 1.0, "fid_procedural": 9.0, "miou": 0.2}
    measured = {1: first, 2: {"fid_procedural": 3.0, "miou": 0.9}, 3: {}}
    for metric, ranks in {"fid": [2, 1], "fid_inception": [1], "miou": [2, 1], "kid": []}.items():
        assert rank_checkpoints(measured, metric) == ranks, metric
