"""Small configurations whose whole training takes seconds."""

from __future__ import annotations

from privfed_dpo.config import Config, parse_config

TINY = """
run: {threads: 1}
data: {clients: 6, pairs_per_client: 12, eval_pairs: 24}
model:
  warmup_steps: 20
  warmup_batch: 16
  adapter: {rank: 2}
dpo: {beta: 0.5}
privacy:
  target_epsilon: 8
  max_grad_norm: 0.1
  sample_rate: 0.3
  dropout_tolerance: 1
  colluders: 1
federation: {rounds: 3, learning_rate: 0.005}
evaluation: {pairs: 24, gradient_pairs: 12, curvature_products: 0}
"""


def tiny_config(folder, *overrides: str) -> Config:
    """A run of three rounds with six clients, cached beside the run folder's parent."""
    fixed = [f"run.dir={folder}", f"run.cache_dir={folder.parent / 'cache'}"]
    return parse_config(TINY, [*fixed, *overrides])
