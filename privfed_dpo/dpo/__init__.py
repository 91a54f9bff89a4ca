"""The DPO objective: losses, per-pair gradients, cached references, evaluation."""
