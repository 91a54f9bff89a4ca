"""Sums of integer vectors that reveal nothing but the sum, with drop-outs tolerated."""
