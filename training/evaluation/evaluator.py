"""Metrics of a generator on its training dataset."""

from pathlib import Path

import torch
from torch import Tensor

from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.metrics.frechet import frechet_distance, kernel_distance
from mate3d.metrics.geometry import eikonal_residual
from mate3d.metrics.segmentation import confusion_matrix, mean_iou
from mate3d.outputs.visualize import to_uint8
from torch_utils.batch_random import BatchRandom
from torch_utils.distributed import all_reduce_sum, world
from torch_utils.stages import stage
from training.data.dataset import PortraitDataset
from training.data.format.shards import ShardFiles
from training.evaluation.judges import choose_features, choose_labels, mask_at
from training.evaluation.real_features import own_batches, real_features
from training.evaluation.settings import MetricSettings

# Separates these random numbers from those of training.
_STREAM = 0x6D6574
_EIKONAL_POINTS = 4096


class TrainingEvaluator:
    """Measures generators on a dataset; loads networks on construction, so that errors come early.

    Each process generates its share of the images. All get the same values, which do not depend
    on the number of processes.

    Args:
        dataset: Real portraits at the generator's resolution.
        cache_folder: Cache for features of real images; can be shared by all runs.

    Raises:
        UserError: If a requested network is missing, or FID or KID is requested for a dataset that
            can only be streamed.
    """

    def __init__(
        self,
        settings: MetricSettings,
        dataset: PortraitDataset,
        device: torch.device,
        cache_folder: Path,
    ):
        self._settings, self._dataset = settings, dataset
        self._device, self._cache_folder = device, cache_folder
        has_distances = bool({"fid", "kid"} & set(settings.names))
        if has_distances and isinstance(dataset.files, ShardFiles) and dataset.files.is_remote:
            raise UserError(
                f"dataset {dataset.path} can only be streamed, but FID and KID need random access"
                " to its images; use metrics.names=[eikonal]"
            )
        # Weight initialisation must not change the random numbers of training.
        with torch.random.fork_rng(devices=[]):
            self._features = choose_features(settings, dataset, device) if has_distances else None
            has_labels = "miou" in settings.names
            self._labels = choose_labels(settings, dataset, device) if has_labels else None

    @torch.no_grad()
    def measure(
        self,
        generator: Generator,
        cameras: Tensor,  # [N, 25]
        seed: int,
    ) -> dict[str, float]:
        """Measure random heads from cameras of the dataset.

        Args:
            generator: In eval mode; usually the EMA.
            cameras: Cameras to sample from; each also conditions its head.

        Returns:
            Metrics/fid_<features>, Metrics/kid_<features>, Metrics/miou and
            Metrics/eikonal_residual: those requested and measurable.
        """
        names, judge = self._settings.names, self._features
        num_features = judge.network.num_features if judge else 0
        fake = torch.zeros(self._settings.num_samples, num_features)
        num_classes = generator.label_set.num_classes
        counts = torch.zeros(num_classes, num_classes, dtype=torch.long)
        residuals = torch.zeros(2, dtype=torch.float64)
        has_residual = "eikonal" in names and generator.config.geometry == "sdf"
        num_samples = self._settings.num_samples
        num_eikonal = min(self._settings.eikonal_heads, num_samples) if has_residual else 0
        # The eikonal residual alone needs only a few heads.
        num_heads = num_samples if judge or self._labels else num_eikonal
        cuda = [self._device] if self._device.type == "cuda" else []
        # Some published generators add noise from PyTorch's global random generator.
        with torch.random.fork_rng(devices=cuda), stage("Measuring heads", num_heads) as bar:
            torch.manual_seed(seed)
            for places in own_batches(num_heads, self._settings.batch_size):
                random = BatchRandom((_STREAM, seed), places, self._device)
                num = sum(place < num_eikonal for place in places)
                residuals += self._look_at(generator, cameras, random, places, num, fake, counts)
                bar.update(len(places) * world().size)
        fake, counts, residuals = map(all_reduce_sum, (fake, counts, residuals))
        values = {}
        if judge is not None:
            real = real_features(
                self._dataset,
                judge,
                self._cache_folder,
                num_real=self._settings.num_real,
                batch_size=max(self._settings.batch_size, 32),
                device=self._device,
            )
            if "fid" in names:
                values[f"Metrics/fid_{judge.name}"] = frechet_distance(real, fake)
            if "kid" in names:
                values[f"Metrics/kid_{judge.name}"] = kernel_distance(real, fake, seed=seed)
        if self._labels is not None and num_classes > 0:
            values["Metrics/miou"] = mean_iou(counts)
        if residuals[1] > 0:
            values["Metrics/eikonal_residual"] = (residuals[0] / residuals[1]).item()
        return values

    def _look_at(
        self,
        generator: Generator,
        cameras: Tensor,
        random: BatchRandom,
        places: list[int],
        num_eikonal: int,  # number of leading places to measure
        fake: Tensor,  # [M, F], rows `places` are filled in
        counts: Tensor,  # [K, K], added to
    ) -> Tensor:  # [2]: sum of eikonal residuals, number of heads
        z = random.randn((len(places), generator.config.z_dim))
        chosen = (random.rand((len(places),), torch.float64) * len(cameras)).long()
        camera = cameras.to(self._device)[chosen]
        ws = generator.map(z, camera)
        field = generator.make_field(ws, exact=False)
        if self._features or self._labels:
            view = generator.render(
                field, ws, camera, with_segmentation=self._labels is not None, exact=False
            )
            image = view.image.float().clamp(-1, 1)
            if self._features:
                # Quantised to 8 bits, like the real images.
                pixels = torch.from_numpy(to_uint8(image)).movedim(-1, -3).to(self._device)
                fake[places] = self._features.network(pixels).float().cpu()
            if self._labels and view.segmentation is not None:
                judged = self._labels(image)
                own = mask_at(view.segmentation.float(), judged.shape[-1])
                counts += confusion_matrix(own, judged, len(counts)).cpu()
        if num_eikonal == 0:
            return torch.zeros(2, dtype=torch.float64)
        points = random.rand((len(places), _EIKONAL_POINTS, 3)) - 0.5
        each = eikonal_residual(field, points * generator.config.box_size)[:num_eikonal]
        return torch.tensor([each.double().sum(), num_eikonal], dtype=torch.float64)
