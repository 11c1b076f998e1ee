"""Shared by all other packages: files, errors, seeds, stage records, number formats, pictures."""
