"""A causal language model: found, checked, loaded, and run from token ids to hidden states to log-probabilities."""
