"""Carriers of opaque protocol bytes."""
