"""Many runs as one experiment: planned before the first, shared by workers, priced as a whole."""
