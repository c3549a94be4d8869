"""Pictures side by side, each under its label."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .errors import PSAError

_BACKGROUND, _INK = (255, 255, 255), (32, 32, 32)


def labelled_grid(images: Sequence[Image.Image], labels: Sequence[str], columns: int) -> Image.Image:
    """Put pictures of one size into a grid, row by row, with a label above each.

    Args:
        images: RGB or any other mode; the grid is RGB.
        labels: one a picture; a long one wraps, and is cut off after the third line.
        columns: pictures a row; the last row may be shorter.

    Raises:
        PSAError: for no picture, pictures of several sizes, another number of labels, or no column.
    """
    if not images or len(images) != len(labels):
        raise PSAError(
            f"A labelled grid needs one label for each picture: there are {len(images)} pictures and "
            f"{len(labels)} labels. Write one label a line."
        )
    if len({image.size for image in images}) > 1:
        raise PSAError("A labelled grid needs pictures of one size. Scale them to the same size first.")
    if columns < 1:
        raise PSAError("A labelled grid needs at least 1 column.")
    columns = min(columns, len(images))
    width, height = images[0].size
    margin = max(2, width // 32)
    font = ImageFont.load_default(size=max(10, min(32, width // 12)))
    wrapped = [_wrap(label, width, font) for label in labels]
    label_height = max(_text_height(text, font) for text in wrapped) + 2 * margin
    cell_width, cell_height = width + margin, label_height + height
    rows = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * cell_width + margin, rows * cell_height + margin), _BACKGROUND)
    draw = ImageDraw.Draw(grid)
    for index, (image, text) in enumerate(zip(images, wrapped, strict=True)):
        left = margin + index % columns * cell_width
        top = index // columns * cell_height
        draw.multiline_text(
            (left + width / 2, top + label_height / 2), text, fill=_INK, font=font, anchor="mm", align="center"
        )
        grid.paste(image.convert("RGB"), (left, top + label_height))
    return grid


def _wrap(label: str, width: int, font) -> str:
    """At most three lines of at most `width` pixels, broken between words, or inside a word too long for a line."""
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        while font.getlength(word) > width and len(word) > 1:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            lines.append(word[:fits])
            word = word[fits:]
        lines.append(word)
    lines = [line for line in lines if line]
    return "\n".join(lines[:3])


def _text_height(text: str, font) -> int:
    box = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text or " ", font=font)
    return round(box[3])
