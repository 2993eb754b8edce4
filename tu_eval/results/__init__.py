"""A results folder: written whole, checked, and read."""
