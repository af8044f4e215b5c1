"""Frozen diffusion models that tell how a picture should change; one file a model."""
