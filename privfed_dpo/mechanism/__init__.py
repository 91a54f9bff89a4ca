"""The private mechanism: clip, integer grid, noise, sampler; randomness from a cipher."""
