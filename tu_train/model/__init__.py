"""What trains, how it takes a step, and the model before training beside it."""
