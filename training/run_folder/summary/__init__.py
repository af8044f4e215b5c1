"""A page about a run that needs nothing but a browser: `write_summary`."""

from training.run_folder.summary.summary import write_summary

__all__ = ["write_summary"]
