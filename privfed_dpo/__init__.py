"""Differentially private, securely aggregated, distributed Direct Preference Optimization."""

__version__ = "0.1.0"
