"""From image files to arrays indexed by image id."""
