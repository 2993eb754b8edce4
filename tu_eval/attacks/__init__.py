"""Attacks on a model that was made to forget: each tries to get the knowledge out again and says in numbers how far it
came.

One idea a file. An attack takes an engine and the forget rows, and gives one row an example and setting; what it did to
the weights is undone when it ends. tu_eval/attacks/run.py runs them on the model, on the one before unlearning and on
the retain model.
"""
