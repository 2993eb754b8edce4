"""How much fine-tuning, on what and on how much of it, brings the forgotten back."""
