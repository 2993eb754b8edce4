"""Where the gradient of forgetting lies: its signal and its noise for each choice of token weights."""
