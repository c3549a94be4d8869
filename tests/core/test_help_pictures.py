"""Each help page shows its node as it is wired."""

import re
from pathlib import Path

import pytest
from PIL import Image

PAGES = sorted((Path(__file__).parents[2] / "web" / "docs").glob("*.md"))
PICTURES = PAGES[0].parent / "images"
PICTURE = re.compile(r"!\[([^\]]+)\]\(([^)\s]+)\)")
LARGEST, ALL = 30_000, 1_000_000  # bytes
WIDEST = 870  # pixels: the panel of help is about half as wide, and words should still be read there


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_its_node_above_its_first_section(page):
    top = page.read_text(encoding="utf-8").partition("\n## ")[0]
    [(words, file)] = PICTURE.findall(top)
    assert file == f"images/{page.stem}.png"
    assert top.splitlines()[0].removeprefix("# ") in words
    assert '"' not in words  # ComfyUI's page puts them into an attribute as they are
    assert (page.parent / file).stat().st_size <= LARGEST
    with Image.open(page.parent / file) as picture:
        assert picture.format == "PNG"
        assert 200 <= picture.width <= WIDEST
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 10


def test_no_picture_is_left_over_and_together_they_are_small():
    files = list(PICTURES.iterdir())
    assert {file.name for file in files} == {f"{page.stem}.png" for page in PAGES}
    assert sum(file.stat().st_size for file in files) <= ALL
