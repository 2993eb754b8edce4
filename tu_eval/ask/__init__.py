"""One question put to one or two models, their answers side by side."""
