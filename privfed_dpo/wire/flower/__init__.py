"""Flower as a transport: two shims on its public API that move opaque bytes (extra `flower`)."""
