"""Command-line scripts, one per file."""
