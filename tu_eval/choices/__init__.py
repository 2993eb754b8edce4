"""Multiple-choice questions of your own."""
