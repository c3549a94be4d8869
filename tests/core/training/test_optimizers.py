"""Optimizers by name."""

import copy

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


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_an_offloaded_optimizer_makes_the_same_steps_and_the_same_state(name):
    def steps(offload: bool, count: int, state: dict | None = None):
        matrix, vector = torch.nn.Parameter(torch.eye(6, 4)), torch.nn.Parameter(torch.ones(6))
        config = TrainConfig(optimizer=name, learning_rate=0.1, optimizer_offload=offload)
        optimizer = build_optimizer([matrix, vector], config)
        if state is not None:
            optimizer.load_state_dict(copy.deepcopy(state))  # it steps on in what it is given
        for number in range(count):
            generator = torch.Generator().manual_seed(number)
            for parameter in (matrix, vector):
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        return matrix.detach(), vector.detach(), copy.deepcopy(optimizer.state_dict())

    *_, before = steps(False, 2)
    kept, moved = steps(False, 3, before), steps(True, 3, before)
    assert torch.equal(kept[0], moved[0]) and torch.equal(kept[1], moved[1])
    assert str(kept[2]) == str(moved[2])


def test_between_steps_the_state_is_not_where_the_weights_are(monkeypatch):
    """Both are on the CPU here, so what is asked of tensors is noted."""
    weights, places = torch.nn.Parameter(torch.eye(3)), []
    optimizer = build_optimizer([weights], TrainConfig(optimizer="adamw", optimizer_offload=True))
    weights.grad = torch.eye(3)
    optimizer.step()
    real = torch.Tensor.to

    def noted(self, *to, **more):
        places.append((self.shape, *to))
        return real(self, *to, **more)

    monkeypatch.setattr(torch.Tensor, "to", noted)
    monkeypatch.setattr(torch.nn.Parameter, "device", torch.device("cpu", 0))
    optimizer.step()
    moments = [(weights.shape, torch.device("cpu", 0))] * 2, [(weights.shape, torch.device("cpu"))] * 2
    assert [place for place in places if place[0] == weights.shape] == [*moments[0], *moments[1]]
