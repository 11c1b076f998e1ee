"""Which images to label: the strategies, and what they look at."""
