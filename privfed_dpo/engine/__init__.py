"""The round engine: plan, client, coordinator, checkpoints. It does no input or output itself."""
