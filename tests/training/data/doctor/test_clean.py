"""Clean data raises no alarm."""

from pathlib import Path

import pytest

from tests.training.data.doctor.broken import copy_dataset
from training.data.doctor import check_dataset, exit_code


@pytest.mark.parametrize("seed", [0, 1000, 2000, 3000])
@pytest.mark.parametrize("kind", ["cats", "faces"])
def test_clean_data_raises_no_alarm(clean_dataset, kind: str, seed: int) -> None:
    diagnosis = check_dataset(clean_dataset(kind, seed))
    assert {finding.code for finding in diagnosis.findings} == {"few_examples"}
    assert exit_code(diagnosis) == 0


@pytest.mark.parametrize(("target", "options"), [("d.zip", {}), ("d", {"shard_size": 10})])
def test_zip_and_shards_are_examined_like_folders(
    clean_dataset, tmp_path: Path, target: str, options: dict
) -> None:
    copy = copy_dataset(clean_dataset("cats"), tmp_path / target, **options)
    diagnosis = check_dataset(copy)
    assert {finding.code for finding in diagnosis.findings} == {"few_examples"}
    assert diagnosis.statistics.num_examined == 24


def test_statistics_count_what_is_there(clean_dataset) -> None:
    statistics = check_dataset(clean_dataset("cats")).statistics
    assert (statistics.num_images, statistics.num_masks, statistics.num_cameras) == (24, 24, 24)
    assert statistics.num_captions == 24 and statistics.sizes == (((64, 64), 24),)
    shares = {one.name: one.share_of_pixels for one in statistics.class_frequencies}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
    assert shares["skin"] > shares["eyes"] > 0
    assert statistics.distance == pytest.approx(2.7, abs=1e-4)
    assert statistics.focal == pytest.approx(4.2647, abs=1e-4)
    assert max(map(abs, statistics.yaws)) <= 0.7 and max(map(abs, statistics.pitches)) <= 0.4


def test_sampling_reads_fewer_files_and_still_compares_all_names(open_copy) -> None:
    data = open_copy("cats")
    data.mask_file(data.names[3]).unlink()
    diagnosis = check_dataset(data.path, max_images=5)
    assert diagnosis.statistics.num_examined == 5
    assert diagnosis.find("unpaired").names == (data.names[3],)
