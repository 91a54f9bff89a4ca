"""What was released, and what it costs: differential-privacy bookkeeping without ML."""
