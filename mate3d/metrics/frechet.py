"""Feature distances between two sets of images (FID and KID), computed with torchmetrics."""

import warnings

import torch
from torch import Tensor, nn


def frechet_distance(
    real: Tensor,  # [N, F]
    fake: Tensor,  # [M, F]
) -> float:
    """Return the Frechet distance of Gaussians fitted to features (FID, Heusel et al. 2017).

    Lower is better; 0 means equal. With few samples it is biased upwards, so compare only values
    from equal sample counts.
    """
    # Imported here because the import takes seconds.
    from torchmetrics.image.fid import FrechetInceptionDistance

    assert min(len(real), len(fake)) >= 2, (len(real), len(fake))
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]), sync_on_compute=False)
    metric.set_dtype(torch.float64)
    metric.update(real.double().cpu(), real=True)
    metric.update(fake.double().cpu(), real=False)
    return metric.compute().item()


def kernel_distance(
    real: Tensor,  # [N, F]
    fake: Tensor,  # [M, F]
    *,
    subset_size: int = 1000,
    seed: int = 0,
) -> float:
    """Return the kernel distance with the cubic kernel (KID, Binkowski et al. 2018, section 4).

    Averaged over 100 random subsets. Lower is better. It is unbiased: equal sets score about 0, and
    slightly negative values occur.

    Args:
        subset_size: Samples per subset, at most those available.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    subset_size = min(len(real), len(fake), subset_size)
    assert subset_size >= 2, subset_size
    with warnings.catch_warnings():
        # Its warning about the memory for all features does not matter: they are stored already.
        warnings.simplefilter("ignore", UserWarning)
        metric = KernelInceptionDistance(
            feature=_Given(real.shape[1]), subset_size=subset_size, sync_on_compute=False
        )
    metric.update(real.float().cpu(), real=True)
    metric.update(fake.float().cpu(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, _ = metric.compute()
    return mean.item()


class _Given(nn.Module):
    """Placeholder for torchmetrics' feature network that returns precomputed features.

    One pass of the real network then serves both distances, and its results can be cached.
    """

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(
        self,
        features: Tensor,  # [B, F]
    ) -> Tensor:  # [B, F]
        return features
