"""The claims of arXiv:2605.20696 as experiments, each with a pass condition."""
