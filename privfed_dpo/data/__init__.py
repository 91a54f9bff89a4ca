"""Preference data before any training: loading, checking, partitioning, tokenizing."""
