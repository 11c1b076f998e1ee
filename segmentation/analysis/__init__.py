"""Finished runs, compared: statistics and tables."""
