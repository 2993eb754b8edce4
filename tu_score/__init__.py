"""Stage one: which tokens carry the knowledge? Scores every token once and writes the score store."""
