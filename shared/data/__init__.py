"""Rows of any file, laid out as text and turned into token ids with target tokens."""
