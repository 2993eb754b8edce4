"""What the loop reads: forget, partner and retain rows, in an order that depends on the seed alone."""
