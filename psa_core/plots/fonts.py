"""A font that has the letters of a text: Pillow's own, the one that comes with the pack, or the system's."""

import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

from PIL import ImageFont

_OURS = Path(__file__).parent / "font_files" / "PSALabels.ttf"
_SYSTEM = (  # for writing that ours lack: where systems keep fonts, and the widest of those they come with
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("/System/Library/Fonts"),
    Path("/Library/Fonts"),
    Path(os.environ.get("WINDIR", r"C:\Windows"), "Fonts"),
    *(Path(os.path.expanduser(place)) for place in ("~/.fonts", "~/.local/share/fonts")),
)
_WIDEST = ("noto", "unifont", "droidsansfallback", "wqy", "arial unicode", "segoeui", "nirmala", "freesans", "symbola")
_MOST_FILES = 200
_MOST_LETTERS = 1000  # different ones, by which a font is chosen: each is drawn in each font that is tried

Font = ImageFont.FreeTypeFont


def font_for(text: str, size: int) -> Font:
    """The first font with all letters of `text`, else the one with the most of them; of very many letters the first."""
    letters = list(islice(dict.fromkeys(character for character in text if not character.isspace()), _MOST_LETTERS))
    best, most = None, -1
    for path in _paths():
        font = _font(path, size)
        found = sum(_has(path, letter) for letter in letters) if font else -1
        if font and found == len(letters):
            return font
        if found > most:
            best, most = font, found
    assert best is not None  # Pillow's own opens
    return best


def _paths() -> Iterator[str]:
    yield ""  # Pillow's own
    yield str(_OURS)
    yield from _system_fonts()


@lru_cache(1)
def _system_fonts() -> tuple[str, ...]:
    files = (
        path
        for folder in _SYSTEM
        for path in folder.rglob("*")
        if path.suffix.lower() in (".ttf", ".otf", ".ttc") and path.name.lower().startswith(_WIDEST)
    )
    return tuple(str(path) for path, _ in zip(sorted(files), range(_MOST_FILES), strict=False))


@lru_cache(64)
def _font(path: str, size: int) -> Font | None:
    try:
        font = ImageFont.truetype(path, size) if path else ImageFont.load_default(size=size)
    except OSError:
        return None
    return font if isinstance(font, Font) else None


@lru_cache(4096)
def _has(path: str, letter: str) -> bool:
    """Whether a font draws a letter as something else than the box that stands for all that it lacks."""
    font = _font(path, 16)
    return font is not None and bytes(font.getmask(letter)) != bytes(font.getmask("\U0010ffff"))
