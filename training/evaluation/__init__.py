"""Evaluation of a generator during training: FID, KID, mIoU and eikonal residual."""

from training.evaluation.evaluator import TrainingEvaluator
from training.evaluation.settings import MetricSettings

__all__ = ["MetricSettings", "TrainingEvaluator"]
