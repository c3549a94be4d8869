"""Optimizers by name."""

import pytest
import torch

from psa_core.errors import PSAError
from psa_core.training.config import TrainConfig
from psa_core.training.optimizers import build_optimizer


def test_muon_moves_every_direction_of_a_matrix_alike_and_adamw_its_vectors():
    matrix, vector = torch.nn.Parameter(torch.zeros(8, 8)), torch.nn.Parameter(torch.zeros(8))
    optimizer = build_optimizer([matrix, vector], TrainConfig(optimizer="muon", learning_rate=0.1, weight_decay=0.0))
    matrix.grad = torch.diag(torch.logspace(0, -2, 8))
    vector.grad = torch.logspace(0, -2, 8)
    optimizer.step()
    lengths = torch.linalg.svdvals(matrix.detach())
    assert lengths.max() < 2 * lengths.min()  # a hundred to one in the gradient
    assert torch.allclose(vector, torch.full((8,), -0.1), atol=1e-5)


def test_muon_follows_the_learning_rate_of_its_groups():
    matrix, vector = torch.nn.Parameter(torch.zeros(4, 4)), torch.nn.Parameter(torch.zeros(4))
    optimizer = build_optimizer([matrix, vector], TrainConfig(optimizer="muon", learning_rate=0.1))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    matrix.grad, vector.grad = torch.eye(4), torch.ones(4)
    optimizer.step()
    assert not matrix.any() and not vector.any()
    optimizer.zero_grad(set_to_none=True)
    assert matrix.grad is None and vector.grad is None


def test_muon_on_an_older_pytorch_says_what_to_do(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(PSAError, match=r"PyTorch 2\.9 or newer"):
        build_optimizer([torch.nn.Parameter(torch.zeros(2, 2))], TrainConfig(optimizer="muon"))
