"""Procedural portraits: analytic heads with exact labels, depth, normals and captions."""
