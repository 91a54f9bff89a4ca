"""Consumers of engine events: the run folder and the terminal."""
