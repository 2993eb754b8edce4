"""Suites: named sets of rows, and what is asked of each."""
