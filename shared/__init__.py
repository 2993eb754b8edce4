"""What tu_score, tu_train and tu_eval have in common. They import this package, never each other."""

__version__ = "0.1.0"
