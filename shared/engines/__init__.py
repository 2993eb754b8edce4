"""Requests in, scores or text out: one interface, and what runs models behind it (torch, vLLM)."""
