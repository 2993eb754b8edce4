"""Gone or hidden: how deep in a model's layers the forgotten can still be read."""
