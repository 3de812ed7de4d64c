"""A training loop with two mistakes: the encoder gets no gradient, and the list of losses keeps every graph.

Record it and ask why:

    gradprobe run -o train.gradprobe examples/train.py
    gradprobe why train.gradprobe encoder.weight
"""

import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(8, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        with torch.no_grad():  # was meant for the first epoch
            features = self.encoder(x).relu()
        return self.head(features)


def train(model, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = []
    for _ in range(steps):
        x = torch.randn(32, 8)
        y = (x.sum(1) > 0).long()
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss)
    return history


if __name__ == "__main__":
    torch.manual_seed(0)
    losses = train(Classifier(), steps=20)
    print(f"loss {losses[-1].item():.2f} after {len(losses)} steps")
