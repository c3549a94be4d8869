"""Columns of `user_proj` that no training user's profile reaches, in an adapter that goes out."""

import torch


@torch.no_grad()
def hide_unused_columns(
    weight: torch.Tensor, initial: torch.Tensor, embeddings: torch.Tensor, scale: torch.Tensor, seed: int
) -> torch.Tensor:
    """`weight` (O, D) of user_proj with the columns of coordinates that are 0 for every training user replaced.

    Such a column shows nothing but its start and weight decay; beside the others it tells which answers nobody
    gave, and so, of a single person, which ones that person gave. What it holds acts on no training user and not
    on the empty profile. So it is given, on top of its own random start, the movement of another column, drawn at
    random: then it looks as columns in use do. Movements come from coordinates that are never negative: a value
    that nobody had acts as one that somebody had, but not as a ban.

    Args:
        initial: (O, D) the random start. embeddings: (U, D) of the training users.
        scale: (D,) what the columns will be divided by (`Standardisation`).
        seed: of the draw; whoever knows it and `initial` can tell the columns.
    """
    used = (embeddings != 0).any(0)
    pool = (used & (embeddings >= 0).all(0)).nonzero()[:, 0]
    unused = (~used).nonzero()[:, 0]
    if not len(unused) or not len(pool):
        return weight
    start, now = initial[:, unused].double(), weight[:, unused].double()
    decay = (start * now).sum() / start.square().sum()  # nothing else acted on these columns
    generator = torch.Generator().manual_seed(seed)
    twins = pool[torch.randint(len(pool), (len(unused),), generator=generator)]
    moved = weight[:, twins].double() - decay * initial[:, twins].double()
    result = weight.clone()
    result[:, unused] = ((now + moved) / scale[twins].double()).to(weight.dtype)
    return result
