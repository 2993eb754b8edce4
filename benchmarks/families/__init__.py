"""Model families: what runs on each, on small random models with the form of the real ones (docs/models.md).

    python -m benchmarks.families --out WORK [--only llama3 ...] [--vllm]     runs what is not finished
    python -m benchmarks.families --out WORK --page docs/models.md            writes the page from what has run

A family is one function call in zoo.py. Everything is done by the real commands; what they say where they refuse is
what the page shows.
"""
