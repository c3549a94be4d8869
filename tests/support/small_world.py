"""PSA Mini made small: its base model, data sets, adapters and measurements in seconds, and the same each time."""

from functools import partialmethod
from types import SimpleNamespace

from psa_core.mini import ablations, adapters, base_model, benchmark, dataset, evaluate, times_drawn, viewers, whole
from psa_core.mini.generate import MiniModel

_full_settings_of = adapters.settings_of
SIZES = dataset.Sizes(9, 5, train=16, val=4, test_seen=4, test_unseen=4, harmless=8, held_out_users=3, test_held_out=4)
FEW = ["--per-cell", "2", "--levels", "2", "--harmless", "2"]
_BASE = {"VAE_STEPS": 4, "VAE_BATCH": 2, "VAE_SCENES": 16, "UNET_BATCH": 2, "SCENES": 8, "_SAVE_EVERY": 2}


def shrink() -> None:
    """From now on, in this process; what is timed takes no time, and what is dated is not."""
    for name, value in _BASE.items():
        setattr(base_model, name, value)
    plan = benchmark.Plan
    benchmark.Plan = lambda part, per_cell, levels=2, _harmless=2, _rivals=None: plan(part, per_cell, levels, 2)  # type: ignore
    benchmark.time = SimpleNamespace(process_time=lambda: 0.0)  # type: ignore[assignment]
    times_drawn.count_drawing = lambda *_: ([], "Drawn for a test.")
    viewers._CANDIDATES = 1
    evaluate._REAL = 16
    MiniModel.draw = partialmethod(MiniModel.draw, steps=2)  # type: ignore[method-assign]
    for place in (whole, ablations):
        place.write_dataset = _write_dataset  # type: ignore[attr-defined]
    for place in (adapters, whole, ablations):
        place.settings_of = _settings_of  # type: ignore[attr-defined]


def _write_dataset(folder, seed=0, _sizes=None, ban_all=False) -> None:
    dataset.write_dataset(folder, seed, SIZES, ban_all)


def _settings_of(kind, **changes):
    return _full_settings_of(kind, **{**changes, "steps": 2, "warmup_steps": 1})
