"""Frozen diffusion models that guide an edit; one file per model, and the words that they know."""
