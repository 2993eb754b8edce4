"""Answers to conversations, graded by another model behind an endpoint."""
