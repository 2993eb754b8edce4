"""The table of unlearning methods, and every loss: tensors in, summed loss out."""
