"""Measuring a generator during training: distances to the data, labels, distances' gradients."""

from training.evaluation.evaluator import TrainingEvaluator
from training.evaluation.settings import MetricSettings

__all__ = ["MetricSettings", "TrainingEvaluator"]
