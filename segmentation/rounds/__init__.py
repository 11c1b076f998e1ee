"""The loop of active learning: what it reads, how a round trains, what the rounds do."""
