"""LPPD: the Diffusion-DPO loss, conditioned on the user."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import PSAError


@dataclass(frozen=True)
class DPOLoss:
    """The loss (with its graph) and what it was made of (detached scalars, the reference code's names).

    `model_losses_w` and `model_losses_l` are the policy's mean squared errors on the chosen and the
    rejected rows, `model_mse` and `ref_mse` the policy's and the reference's over both, and
    `dpo_preference` the mean of `-(beta / 2) d`: above 0 where the policy prefers the chosen image
    more than the reference does.
    """

    loss: torch.Tensor
    accuracy: torch.Tensor
    model_mse: torch.Tensor
    ref_mse: torch.Tensor
    model_losses_w: torch.Tensor
    model_losses_l: torch.Tensor
    dpo_preference: torch.Tensor


def dpo_loss(model_pred: torch.Tensor, ref_pred: torch.Tensor, target: torch.Tensor, beta: float = 5000.0) -> DPOLoss:
    """Diffusion-DPO loss of B pairs (arXiv 2311.12908 eq. 14, arXiv 2508.01151 eq. 6).

    `d = [|target - model|^2 - |target - ref|^2]_chosen - [the same]_rejected`, squared errors meant over
    all but the first dimension; `loss = -log sigmoid(-(beta / 2) d)`, meant over pairs.

    Args:
        model_pred: (2B, ...), the policy's predictions, the B chosen rows first, then the B rejected.
        ref_pred: the same shape, the reference's (no gradient flows into it).
        target: the same shape, the noise (or velocity) to predict.
        beta: how strongly the policy is held to the reference.

    Raises:
        PSAError: for shapes that differ, an odd number of rows, inputs that are not tensors of
            floating-point numbers, or a beta that is not positive.
    """
    for tensor in (model_pred, ref_pred, target):
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise PSAError("dpo_loss needs its predictions and target as tensors of floating-point numbers.")
    if not (model_pred.shape == ref_pred.shape == target.shape):
        raise PSAError(
            "dpo_loss needs three tensors of one shape; it got "
            f"{tuple(model_pred.shape)}, {tuple(ref_pred.shape)} and {tuple(target.shape)}."
        )
    if model_pred.ndim < 2 or model_pred.numel() == 0 or model_pred.shape[0] % 2:
        raise PSAError("dpo_loss needs an even number of rows, the chosen ones first, then the rejected ones.")
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not (math.isfinite(beta) and beta > 0):
        raise PSAError("dpo_loss needs a finite beta above 0.")

    model_errors, ref_errors = row_errors(model_pred, target), row_errors(ref_pred, target).detach()
    loss, difference = preference_loss(model_errors, ref_errors, beta)
    winner, loser = model_errors.detach().chunk(2)
    return DPOLoss(
        loss=loss,
        accuracy=(difference < 0).float().mean(),
        model_mse=model_errors.detach().mean(),
        ref_mse=ref_errors.mean(),
        model_losses_w=winner.mean(),
        model_losses_l=loser.mean(),
        dpo_preference=-(beta / 2) * difference.mean(),
    )


def preference_loss(
    model_errors: torch.Tensor, ref_errors: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`dpo_loss` from squared errors: (2B,) of the policy and (2B,) of the reference, chosen rows first.

    Returns:
        The scalar loss, and d (B,), without gradients: below 0 where the policy prefers the chosen one more.
    """
    difference = model_errors - ref_errors.detach()
    winner, loser = difference.chunk(2)
    difference = winner - loser
    return -F.logsigmoid(-(beta / 2) * difference).mean(), difference.detach()


def row_errors(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(R, ...) -> (R,) mean squared errors, in float32 or, for float64 inputs, in that."""
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square().flatten(1).mean(1)
