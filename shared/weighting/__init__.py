"""From the signals of a score store to importance, and from importance to token weights."""
