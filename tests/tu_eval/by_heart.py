"""A tiny model that knows texts by heart, so that metrics have something to tell apart."""

import torch


def overfit(model, rows, *, passes, learning_rate=4e-3):
    """Full batches of token ids, padded on the right; changes `model`."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for _ in range(passes):
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()
