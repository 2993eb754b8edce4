"""The metrics of the TOFU family (Maini et al. 2024, arXiv 2401.06121) and membership inference, one idea a file.

Pure functions of numbers and strings. Log-probabilities are natural logarithms (nats). `mean log-probability` means: of
an answer's target tokens, end-of-turn included.
"""
