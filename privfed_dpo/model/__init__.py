"""Language models and their adapters: loading, flat vectors, log-probabilities."""
