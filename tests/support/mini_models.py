"""An untrained model of PSA Mini's architecture, for what needs its files and not its pictures."""

from pathlib import Path

import torch

from psa_core.mini import base_model


def write_untrained_base(folder: Path) -> Path:
    """A folder in diffusers' layout less the scheduler, float16; every weight is random, norms' too."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = {
            "unet": base_model.new_unet(),
            "vae": base_model.new_vae(),
            "text_encoder": base_model.new_text_encoder(),
        }
    for name, model in models.items():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        model.half().save_pretrained(folder / name)
    base_model.write_tokenizer(folder / "tokenizer")
    base_model.write_model_index(folder)
    return folder
