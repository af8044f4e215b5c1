"""Kept features of real images, read by several processes."""

from tests.torch_utils.distributed_processes import run_processes, torchrun_environments

PROCESS = """
import sys, torch
from pathlib import Path
from types import SimpleNamespace
from torch_utils.distributed import distributed, is_main
from training.evaluation import real_features as module
path, count, width = Path(sys.argv[1]), 5000, 600
module.dataset_digest = lambda dataset: "digest"
with distributed("cpu"):
    # Only the main process has the file.
    folder = path if is_main() else path / "nowhere"
    torch.manual_seed(0)
    features = torch.randn(count, width)
    if is_main():
        module._write(path / f"real_digest_f_w_{count}.safetensors", features)
    judge = module.FeatureJudge("f", SimpleNamespace(num_features=width), "w")
    read = module.real_features(
        range(count), judge, folder, num_real=None, batch_size=1, device="cpu"
    )
    assert torch.equal(read, features)
"""


def test_kept_features_of_any_size_reach_all_processes(tmp_path):
    results = run_processes(["-c", PROCESS, str(tmp_path)], torchrun_environments(2))
    for result in results:
        assert result.returncode == 0, result.stderr
