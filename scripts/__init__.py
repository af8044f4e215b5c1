"""Command-line entries, one file a script."""
