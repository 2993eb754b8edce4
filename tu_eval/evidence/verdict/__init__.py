"""The verdict: for each unlearned model, what is forgotten, what is kept, and what nobody measured, on one page."""
