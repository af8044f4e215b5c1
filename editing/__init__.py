"""Editing of 3D portraits by a repainted mask and a text prompt."""
