"""A start and an end for the mini world's VAE: an untrained one that keeps colours, and latents of unit spread."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

LATENT_SCALE = 0.18215  # SD1.5's: what its tools multiply the VAE's latents by
_CARRIED = 8  # channels that carry colours through the untrained VAE


@torch.no_grad()
def start_as_blur(vae: Any, pixels: torch.Tensor) -> None:
    """Make the untrained VAE one that keeps each cell's mean colour, from where it learns in minutes what took hours.

    Red, green, blue, their negatives and two constants travel in the first eight channels. The
    constants keep the group norms from forgetting levels, and silu(x) - silu(-x) = x.
    """
    coders = (vae.encoder, vae.decoder)
    for coder, inputs in zip(coders, (3, 4), strict=True):
        for block in (coder.mid_block, *(coder.down_blocks if inputs == 3 else coder.up_blocks)):
            for resnet in block.resnets:
                _first_rows(resnet.conv2)
                if resnet.conv_shortcut is not None:
                    _first_rows(resnet.conv_shortcut, torch.eye(_CARRIED), 0)
            for attention in getattr(block, "attentions", []):
                _first_rows(attention.to_out[0])
            for sampler in getattr(block, "downsamplers", None) or []:
                for place in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    _first_rows(sampler.conv, torch.eye(_CARRIED) / 4, *place, clear=place == (0, 0))
            for sampler in getattr(block, "upsamplers", None) or []:
                _first_rows(sampler.conv, torch.eye(_CARRIED), 1, 1)
        colours = torch.eye(3, inputs)
        _first_rows(coder.conv_in, torch.cat([colours, -colours, torch.zeros(2, inputs)]), 1, 1)
        coder.conv_in.bias[6:_CARRIED] = torch.tensor([4.0, -4.0])
        coder.conv_out.weight.zero_()
        coder.conv_out.bias.zero_()
        coder.conv_out.weight[:3, :6, 1, 1] = torch.cat([torch.eye(3), -torch.eye(3)], 1)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
        conv.bias.zero_()
    vae.encoder.conv_out.bias[4:] = -5.0  # log variances
    nn.init.normal_(vae.encoder.conv_out.weight[3], std=0.05)
    nn.init.normal_(vae.decoder.conv_in.weight[_CARRIED:], std=0.2)
    blurred = F.avg_pool2d(pixels, 8)
    latents = vae.encode(pixels).latent_dist.mode()[:, :3]
    vae.encoder.conv_out.weight[:3] *= (latents * blurred).sum() / latents.square().sum()
    decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    vae.decoder.conv_out.weight *= (decoded * pixels).sum() / decoded.square().sum()


def _first_rows(layer: Any, matrix: torch.Tensor | None = None, *place: int, clear: bool = True) -> None:
    """Let a layer write to the first eight channels `matrix` at `place` of its kernel, or nothing."""
    if clear:
        layer.weight[:_CARRIED] = 0
        layer.bias[:_CARRIED] = 0
    if matrix is not None:
        y, x = place if len(place) == 2 else (0, 0)
        layer.weight[:_CARRIED, : matrix.shape[1], y, x] = matrix


@torch.no_grad()
def standardise_latents(vae: Any, pictures: torch.Tensor) -> None:
    """Fold an offset and a scale per channel into the VAE, so that its scaled latents are standardised."""
    latents = torch.cat([vae.encode(part.float() / 127.5 - 1).latent_dist.mode() for part in pictures.split(64)])
    mean, spread = latents.mean((0, 2, 3)), latents.std((0, 2, 3)) * LATENT_SCALE
    encoder, decoder = vae.quant_conv, vae.post_quant_conv
    encoder.weight[:4] /= spread.view(-1, 1, 1, 1)
    encoder.bias[:4] = (encoder.bias[:4] - mean) / spread
    encoder.bias[4:] -= 2 * spread.log()  # the log variances
    decoder.bias += decoder.weight[:, :, 0, 0] @ mean
    decoder.weight *= spread.view(1, -1, 1, 1)
