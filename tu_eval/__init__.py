"""The evaluator: metrics of the field for checkpoints, kept by content and compared side by side."""
