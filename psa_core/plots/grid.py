"""Pictures side by side, each under its label."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ..errors import PSAError
from .canvas import BACKGROUND, INK, Colour, text_height, wrap, wrap_lines
from .fonts import font_for


@dataclass(frozen=True)
class Cell:
    """One picture of a table, the words under it, and the colour of its frame, or `None` for no frame."""

    image: Image.Image
    caption: str
    frame: Colour | None = None


def labels_in_turn(labels: Sequence[str], pictures: int) -> list[str]:
    """A label for each of so many pictures: fewer labels start over, as viewers do in a batch.

    Raises:
        PSAError: where they do not go round.
    """
    if not labels or pictures % len(labels) or not pictures:
        have = f"{pictures} {'picture' if pictures == 1 else 'pictures'}"
        wanted = f"{len(labels)} {'label' if len(labels) == 1 else 'labels'}"
        raise PSAError(
            f"The grid has {have} and {wanted}. Set batch_size of the latent that is drawn on to {len(labels)}, a "
            f"picture for each label, or to a multiple of it. Or write one label for each picture, one a line."
        )
    return list(labels) * (pictures // len(labels))


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
    font = font_for("".join(labels), max(10, min(32, width // 12)))
    wrapped = [wrap(label, width, font) for label in labels]
    label_height = max(text_height(text, font) for text in wrapped) + 2 * margin
    cell_width, cell_height = width + margin, label_height + height
    rows = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * cell_width + margin, rows * cell_height + margin), BACKGROUND)
    draw = ImageDraw.Draw(grid)
    for index, (image, text) in enumerate(zip(images, wrapped, strict=True)):
        left = margin + index % columns * cell_width
        top = index // columns * cell_height
        draw.multiline_text(
            (left + width / 2, top + label_height / 2), text, fill=INK, font=font, anchor="mm", align="center"
        )
        grid.paste(image.convert("RGB"), (left, top + label_height))
    return grid


def labelled_table(
    rows: Sequence[Sequence[Cell]], row_labels: Sequence[str], column_labels: Sequence[str], note: str = ""
) -> Image.Image:
    """Put pictures of one size into a table, with labels to the left of the rows and above the columns.

    Args:
        rows: as many cells in each as there are `column_labels`.
        row_labels, column_labels: each of their lines wraps, as a grid's labels do.
        note: goes under the table.

    Returns:
        An RGB picture; a frame lies around its picture and covers none of it.

    Raises:
        PSAError: for no picture, pictures of several sizes, or another number of labels.
    """
    if not rows or not column_labels or {len(row) for row in rows} != {len(column_labels)}:
        raise PSAError("A labelled table needs at least one picture, and one in each row for every column's label.")
    if len(rows) != len(row_labels):
        raise PSAError(f"A labelled table needs one label for each row: it has {len(rows)} and {len(row_labels)}.")
    if len({cell.image.size for row in rows for cell in row}) > 1:
        raise PSAError("A labelled table needs pictures of one size. Scale them to the same size first.")
    width, height = rows[0][0].image.size
    margin, frame = max(8, width // 12), max(2, width // 48)
    words = [*row_labels, *column_labels, note, *(cell.caption for row in rows for cell in row)]
    font = font_for("".join(words), max(10, min(32, width // 12)))
    beside, above = ([wrap_lines(text, width, font) for text in texts] for texts in (row_labels, column_labels))
    captions = [[wrap_lines(cell.caption, width, font) for cell in row] for row in rows]
    left, top = width + 2 * margin, max(text_height(text, font) for text in above) + 2 * margin
    caption_height = max(text_height(text, font) for row in captions for text in row) + margin // 2
    step_x, step_y = width + margin, height + caption_height + margin
    size = left + len(column_labels) * step_x, top + len(rows) * step_y
    under = wrap(note, size[0] - 2 * margin, font)
    table = Image.new("RGB", (size[0], size[1] + bool(under) * (text_height(under, font) + margin)), BACKGROUND)
    draw = ImageDraw.Draw(table)
    for column, text in enumerate(above):
        centre = left + column * step_x + width / 2, top / 2
        draw.multiline_text(centre, text, fill=INK, font=font, anchor="mm", align="center")
    for number, (row, words) in enumerate(zip(rows, captions, strict=True)):
        y = top + number * step_y
        draw.multiline_text((margin, y + height / 2), beside[number], fill=INK, font=font, anchor="lm")
        for column, (cell, caption) in enumerate(zip(row, words, strict=True)):
            x = left + column * step_x
            if cell.frame:
                draw.rectangle((x - frame, y - frame, x + width + frame - 1, y + height + frame - 1), fill=cell.frame)
            table.paste(cell.image.convert("RGB"), (x, y))
            place = x + width / 2, y + height + frame + margin // 4
            draw.multiline_text(place, caption, fill=cell.frame or INK, font=font, anchor="ma", align="center")
    draw.multiline_text((margin, size[1]), under, fill=INK, font=font)
    return table
