"""What all rooms share: files, errors, seeds, records, number formats, pictures."""
