"""Measurements, each with the command that made its recorded figures."""
