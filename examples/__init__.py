"""Programs that show the package at work; they are no part of it."""
