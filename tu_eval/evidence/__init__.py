"""The report for a deletion request: whose rows, which numbers again from them, and who signs."""
