"""Models-Genesis-style restoration pretraining."""
