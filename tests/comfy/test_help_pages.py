"""Every node has a help page that names all its inputs, as the server describes them, and shows it wired."""

import re
from io import BytesIO

from graphs import call
from PIL import Image

from psa_core.comfy_server import PACK

PAGES = PACK / "web" / "docs"


def our_nodes(server) -> dict[str, dict]:
    return {name: node for name, node in server.object_info().items() if name.startswith("PSA")}


def test_every_node_has_a_page_and_every_page_a_node(server):
    assert {path.stem for path in PAGES.glob("*.md")} == set(our_nodes(server))


def test_pages_name_every_input(server):
    missing = []
    for name, node in our_nodes(server).items():
        page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        inputs = [each for kind in ("required", "optional") for each in node["input"].get(kind, {})]
        missing += [(name, each) for each in inputs if not names(page, each)]
    assert missing == []


def test_pictures_are_served_where_the_page_looks_for_them(server):
    for name, node in our_nodes(server).items():
        docs = f"/extensions/{node['python_module'].split('.')[1]}/docs"  # a page's relative paths are below it
        status, page = call(server, f"{docs}/{name}.md")
        assert status == 200, name
        pictures = re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", page.decode())
        assert pictures, name
        for picture in pictures:
            status, content = call(server, f"{docs}/{picture}")
            assert status == 200, picture
            Image.open(BytesIO(content)).verify()


def names(page: str, name: str) -> bool:
    """Whether it stands there by itself, or in a row such as `profile_2` … `profile_8`."""
    rows = re.findall(r"`(\w+_)(\d+)` … `\1(\d+)`", page)
    in_row = any(name == f"{stem}{n}" for stem, first, last in rows for n in range(int(first), int(last) + 1))
    return f"`{name}`" in page or in_row
