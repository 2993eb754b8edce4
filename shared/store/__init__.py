"""The score store: written part by part, complete when its manifest is there, checked wherever it is read."""
