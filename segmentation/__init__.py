"""U-Net segmentation and the active learning loop around it."""
