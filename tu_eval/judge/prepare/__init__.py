"""Question-answer rows of your own, given the columns that evaluations use: wrong answers, questions in other words."""
