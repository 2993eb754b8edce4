"""Stage two: unlearning from a score store, with token weights and without a reference model."""
