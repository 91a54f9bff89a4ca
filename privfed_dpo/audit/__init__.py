"""The empirical audit: attempts to prove a run's privacy claim wrong, and proof that they work."""
