"""Pictures are read in one way, whatever kind of file they come in, and nothing but a picture is opened."""

import io
import json
import os
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import write_split

import psa_core.pictures
from psa_core import PSAError, pictures
from psa_core.dataset import read_split, sage
from psa_core.pictures import (
    MAX_PIXELS,
    check_picture,
    cover,
    open_groups,
    open_picture,
    picture_size,
    pixel_batches,
    thumbnail,
    to_images,
    to_tensor,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112
SIDE = 48  # pixels of each quarter of `quarters`


def quarters() -> Image.Image:
    """Red, green over blue, white, twice as wide as high: no turn of it looks like another."""
    image = Image.new("RGB", (4 * SIDE, 2 * SIDE))
    for number, colour in enumerate((RED, GREEN, BLUE, WHITE)):
        x, y = number % 2, number // 2
        image.paste(colour, (x * 2 * SIDE, y * SIDE, (x + 1) * 2 * SIDE, (y + 1) * SIDE))
    return image


def png(width: int, height: int, bits: int, kind: int, rows: bytes, **chunks: bytes) -> bytes:
    """A PNG of raw rows, each beginning with its filter byte."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    extra = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def pixel(path: Path, place: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = open_picture(path)
    assert image.mode == "RGB" and not image.info
    return image.getpixel(place)


def peak_memory() -> int:
    """Bytes, of this process."""
    resource = pytest.importorskip("resource")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_in_every_format_that_has_one(tmp_path, ending, orientation):
    upright = quarters()
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Pillow's turn that a viewer takes back
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a.{ending}"
    stored.save(path, exif=exif, **({"lossless": True} if ending == "webp" else {"quality": 95}))
    read = open_picture(path)
    assert read.size == picture_size(path) == upright.size
    assert np.abs(np.asarray(read, float) - np.asarray(upright, float)).mean() < 8  # JPEG blurs the edges
    check_picture(path)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_is_ignored(tmp_path, value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    quarters().save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(open_picture(tmp_path / "a.png"), quarters())


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0nonsense",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0six\0\0\0\0\0",  # text in place of a number
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\0\0\0\0\0\0\0\0\0\0\0\0",  # no value at all
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    ],
)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_broken_exif_is_no_fault_of_the_pixels(tmp_path, exif, ending):
    path = tmp_path / f"a.{ending}"
    quarters().save(path, exif=exif, quality=95)
    assert open_picture(path).size == picture_size(path) == quarters().size
    check_picture(path)


def test_ill_typed_tiff_tags_are_a_sentence(tmp_path):
    """Each entry of a TIFF's directory with another type: read as before, or refused by our own error."""
    buffer = io.BytesIO()
    quarters().save(buffer, "TIFF")
    data = buffer.getvalue()
    start = struct.unpack("<I", data[4:8])[0]
    for entry in range(struct.unpack("<H", data[start : start + 2])[0]):
        for kind in (0, 2, 5, 7, 12, 99):
            place = start + 2 + 12 * entry + 2
            path = write(tmp_path / "a.tif", data[:place] + struct.pack("<H", kind) + data[place + 2 :])
            for read in (open_picture, check_picture, picture_size):
                try:
                    read(path)
                except PSAError as error:
                    assert "a.tif" in str(error)


def test_sixteen_bits(tmp_path):
    grey = np.full((4, 4), 128 * 257, np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey).save(tmp_path / "grey.tif")
    big = Image.frombytes("I;16B", (4, 4), grey.byteswap().tobytes())
    big.save(tmp_path / "big.tif")
    row = b"\0" + struct.pack(">HHH", 255 * 257, 128 * 257, 3 * 257)
    write(tmp_path / "colour.png", png(1, 1, 16, 2, row))
    write(tmp_path / "alpha.png", png(1, 1, 16, 6, row + struct.pack(">H", 65535)))
    write(tmp_path / "grey-alpha.png", png(1, 1, 16, 4, b"\0" + struct.pack(">HH", 128 * 257, 65535)))
    for name in ("grey.png", "grey.tif", "big.tif", "grey-alpha.png"):
        assert pixel(tmp_path / name) == (128, 128, 128), name
    for name in ("colour.png", "alpha.png"):
        assert pixel(tmp_path / name) == (255, 128, 3), name


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_few_bits(tmp_path, bits):
    write(tmp_path / "a.png", png(1, 2, bits, 0, b"\0\0\0\xff"))
    assert (pixel(tmp_path / "a.png"), pixel(tmp_path / "a.png", (0, 1))) == ((0, 0, 0), WHITE)


def test_what_is_transparent_stands_on_white(tmp_path):
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    half.putpixel((1, 0), (255, 0, 0, 128))
    half.save(tmp_path / "rgba.png")
    half.save(tmp_path / "rgba.webp", lossless=True, exact=True)
    half.save(tmp_path / "rgba.tif")
    for name in ("rgba.png", "rgba.webp", "rgba.tif"):
        assert pixel(tmp_path / name) == WHITE, name
        assert pixel(tmp_path / name, (1, 0)) == (255, 127, 127), name
    Image.new("LA", (1, 1), (0, 51)).save(tmp_path / "la.png")
    assert pixel(tmp_path / "la.png") == (204, 204, 204)
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "one.png", transparency=1)
    palette.save(tmp_path / "many.png", transparency=b"\x80\x00")
    palette.save(tmp_path / "one.gif", transparency=1)
    assert pixel(tmp_path / "one.png") == pixel(tmp_path / "one.gif") == RED
    assert pixel(tmp_path / "many.png") == (255, 127, 127)
    for name in ("one.png", "many.png", "one.gif"):
        assert pixel(tmp_path / name, (1, 0)) == WHITE, name


@pytest.mark.parametrize(
    ("bits", "row", "key", "kept"),
    [
        (1, b"\x00", 1, (0, 0, 0)),
        (2, b"\x00", 1, (0, 0, 0)),
        (4, b"\x00", 5, (0, 0, 0)),
        (8, b"\x09", 7, (9, 9, 9)),
        (16, b"\x09\x00", 0x0700, (9, 9, 9)),
    ],
)
def test_the_one_transparent_grey_of_a_png(tmp_path, bits, row, key, kept):
    first = (key << (16 - bits)).to_bytes(2, "big")[: max(1, bits // 8)]  # the pixel of that grey, at its row's start
    data = png(1, 2, bits, 0, b"\0" + first + b"\0" + row, tRNS=struct.pack(">H", key))
    write(tmp_path / "a.png", data)
    assert (pixel(tmp_path / "a.png"), pixel(tmp_path / "a.png", (0, 1))) == (WHITE, kept)


def test_the_one_transparent_colour_of_a_png(tmp_path):
    for bits, scale in ((8, 1), (16, 257)):
        form = ">BBB" if bits == 8 else ">HHH"
        rows = [b"\0" + struct.pack(form, *(value * scale for value in colour)) for colour in ((1, 2, 3), (3, 2, 1))]
        key = struct.pack(">HHH", *(value * scale for value in (1, 2, 3)))
        write(tmp_path / "a.png", png(1, 2, bits, 2, b"".join(rows), tRNS=key))
        assert (pixel(tmp_path / "a.png"), pixel(tmp_path / "a.png", (0, 1))) == (WHITE, (3, 2, 1)), bits


def test_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    for name in ("a.jpg", "a.tif"):
        red, green, blue = pixel(tmp_path / name)
        assert red > 240 and green < 10 and blue < 10, name


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_the_first_of_several_frames(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, GREEN)]
    path = tmp_path / f"a.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if ending == "webp" else {}))
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert pixel(path) == RED


def test_floating_point_from_0_to_1(tmp_path):
    def saved(*values: float) -> Path:
        Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
        return tmp_path / "a.tif"

    assert [pixel(saved(0, 0.5, 1), (x, 0))[0] for x in range(3)] == [0, 128, 255]
    for values in ((0, 200), (-1, 1), (0, float("nan"))):
        with pytest.raises(PSAError, match=r"a\.tif.*outside 0 to 1.*8 or 16 bits"):
            open_picture(saved(*values))
    Image.fromarray(np.array([[70000]], np.int32)).save(tmp_path / "whole.tif")
    with pytest.raises(PSAError, match=r"whole\.tif holds 32-bit whole numbers"):
        check_picture(tmp_path / "whole.tif")


def test_floating_point_is_held_twice_at_a_time_and_no_more(tmp_path):
    """At the limit of pixels a third copy would be over 1 GB."""
    values = np.linspace(0, 1, 1 << 20, dtype=np.float32).reshape(1024, 1024)
    Image.fromarray(values).save(tmp_path / "a.tif")
    tracemalloc.start()
    try:
        picture = open_picture(tmp_path / "a.tif")
        peak = tracemalloc.get_traced_memory()[1]  # Pillow's own copy is not in it
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * values.nbytes
    assert np.array_equal(np.asarray(picture)[..., 0], (values * 255).round().astype(np.uint8))


def progressive(tmp_path, side: int, scans: int) -> Path:
    """A JPEG whose last scan is there again, so often that there are so many; each goes over all pixels."""
    buffer = io.BytesIO()
    quarters().resize((side, side)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content[content.rfind(b"\xff\xda") : -2]
    there = content.count(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(content[:-2] + last * (scans - there) + content[-2:])
    return tmp_path / "a.jpg"


@pytest.mark.parametrize("read", [open_picture, check_picture, picture_size, lambda path: thumbnail(path, 8)])
def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(tmp_path, read):
    """660 kB of them took minutes."""
    began = time.process_time()
    with pytest.raises(PSAError, match=r"a\.jpg.* very many scans\. Save it anew"):
        read(progressive(tmp_path, 4000, 3000))
    assert time.process_time() - began < 5
    read(progressive(tmp_path, 64, 100))
    with pytest.raises(PSAError, match="scans"):
        read(progressive(tmp_path, 64, 101))


def test_what_looks_like_scans_in_a_jpeg_is_none(tmp_path):
    """In its metadata, behind its end, or as filling."""
    buffer = io.BytesIO()
    quarters().save(buffer, "JPEG", comment=b"\xff\xda" * 1000)
    content = buffer.getvalue()
    (tmp_path / "a.jpg").write_bytes(content[:2] + b"\xff" * 5000 + content[2:] + b"\xff\xda\0\2" * 5000)
    assert open_picture(tmp_path / "a.jpg").size == quarters().size
    (tmp_path / "a.jpg").write_bytes(content[:2] + b"\xff\xfe\0\2" * 100_000 + content[2:])
    with pytest.raises(PSAError, match="scans"):
        open_picture(tmp_path / "a.jpg")


def test_nothing_of_a_file_but_its_pixels_comes_along(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "SECRET"
    quarters().save(tmp_path / "a.jpg", exif=exif, comment="SECRET")
    open_picture(tmp_path / "a.jpg").save(tmp_path / "again.png")
    assert b"SECRET" in (tmp_path / "a.jpg").read_bytes()
    assert b"SECRET" not in (tmp_path / "again.png").read_bytes()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n0 0 64 64 rectfill\nshowpage\n%%EOF\n"


def test_no_program_is_started_for_a_text_that_calls_itself_a_picture(tmp_path):
    """A stand-in for Ghostscript on the PATH says whether it was called; Pillow left to itself does call it."""
    canary, path = tmp_path / "called", write(tmp_path / "a.png", EPS)
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def run(line: str) -> None:
        code = f"from pathlib import Path\npath = Path({str(path)!r})\n{line}"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, timeout=120)

    run(
        "from psa_core.pictures import *\n"
        "for read in (open_picture, check_picture, picture_size):\n"
        "    try:\n        read(path)\n        raise SystemExit(1)\n"
        "    except ValueError as error:\n        assert 'is not a picture' in str(error)"
    )
    assert not canary.exists()
    if os.name == "posix":
        run("from PIL import Image\ntry:\n    Image.open(path).load()\nexcept Exception:\n    pass")
        assert canary.exists()  # the canary sings


@pytest.mark.parametrize("data", [b"", b"no", b"%PDF-1.4\n", b"P6 4 4 255\n" + bytes(48), b"\0\0\1\0" + bytes(40)])
def test_what_is_no_picture(tmp_path, data):
    write(tmp_path / "a.png", data)
    for read in (open_picture, check_picture, picture_size):
        with pytest.raises(PSAError, match=r"a\.png.* is not a picture"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["none.png", "n" * 300 + ".png", "folder.png"])
def test_what_is_not_there(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(PSAError, match="is no file"):
        open_picture(tmp_path / name)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_cut_or_flipped_bytes_are_a_sentence_or_a_picture(tmp_path, ending):
    buffer = io.BytesIO()
    quarters().save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()))
    data, rng = buffer.getvalue(), np.random.default_rng(0)
    path = tmp_path / f"a.{ending}"
    for cut in rng.integers(0, len(data) - 20, 40):  # a cut in what follows the pixels is no loss
        write(path, data[:cut])
        for read in (open_picture, check_picture):
            with pytest.raises(PSAError, match="Copy or make it again"):
                read(path)
    for place, bit in zip(rng.integers(0, min(len(data), 200), 150), rng.integers(0, 8, 150), strict=True):
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        write(path, bytes(changed))
        for read in (open_picture, check_picture, picture_size):
            try:
                read(path)
            except PSAError as error:
                assert f"a.{ending}" in str(error)


def bomb(path: Path, width: int, height: int) -> Path:
    """A white PNG of few bytes and many pixels, written without holding them."""
    packer = zlib.compressobj(9)
    row = b"\0" + b"\xff" * (width // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    whole = png(width, height, 1, 0, b"")
    before, after = whole.index(b"IDAT") - 4, whole.index(b"IEND") - 4
    body = b"IDAT" + packed
    data = struct.pack(">I", len(packed)) + body + struct.pack(">I", zlib.crc32(body))
    return write(path, whole[:before] + data + whole[after:])


@pytest.mark.parametrize(("width", "height"), [(16000, 11060), (40000, 40000), (8192, 8193)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, width, height):
    path = bomb(tmp_path / "bomb.png", width, height)
    assert path.stat().st_size < 600_000
    before = peak_memory()
    for read in (open_picture, check_picture, picture_size):
        with pytest.raises(PSAError, match=rf"bomb\.png.*67,108,864 pixels.*PSA_MAX_PIXELS.*{MAX_PIXELS}"):
            read(path)
    assert peak_memory() - before < 20e6


def test_the_limit_is_a_setting(tmp_path, monkeypatch):
    Image.new("1", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setenv("PSA_MAX_PIXELS", "9999")
    with pytest.raises(PSAError, match="9,999 pixels"):
        open_picture(tmp_path / "a.png")
    monkeypatch.setenv("PSA_MAX_PIXELS", "10000")
    assert open_picture(tmp_path / "a.png").size == (100, 100)
    for value in ("0", "-1", "many", "1" * 5000, "1e6"):
        monkeypatch.setenv("PSA_MAX_PIXELS", value)
        with pytest.raises(PSAError, match="PSA_MAX_PIXELS is to be a number"):
            open_picture(tmp_path / "a.png")


def test_batches_go_by_pixels(tmp_path):
    paths = []
    for number, side in enumerate((8, 8, 8, 4096, 8000, 8, 8192, 8192)):
        paths.append(tmp_path / f"{number}.gif")
        # A GIF's header alone says its size: nothing is decoded here.
        paths[-1].write_bytes(
            b"GIF89a"
            + struct.pack("<HH", side, side)
            + b"\0\0\0"
            + b",\0\0\0\0"
            + struct.pack("<HH", side, side)
            + b"\0\x02\0;"
        )
    alone = [[path] for path in paths]
    assert [(part.start, part.stop) for part in pixel_batches(alone, 2)] == [(0, 2), (2, 4), (4, 6), (6, 7), (7, 8)]
    assert [(part.start, part.stop) for part in pixel_batches(alone, 64)] == [(0, 4), (4, 6), (6, 7), (7, 8)]
    assert list(pixel_batches([], 64)) == []
    second = [[paths[0], path] for path in paths]  # the large ones are never the first
    assert [(part.start, part.stop) for part in pixel_batches(second, 64)] == [(0, 4), (4, 6), (6, 7), (7, 8)]
    same = [[paths[0], paths[6]]] * 5  # a file that is there counts once
    assert [(part.start, part.stop) for part in pixel_batches(same, 4)] == [(0, 4), (4, 5)]


def test_pictures_of_groups_are_read_once_each(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for number, path in enumerate(paths):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
    read, opened = [], open_picture
    monkeypatch.setattr(pictures, "open_picture", lambda path: read.append(path) or opened(path))
    groups = open_groups([paths, paths[::-1], paths[:1]])
    assert [[picture.getpixel((0, 0))[0] for picture in group] for group in groups] == [[0, 1], [1, 0], [0]]
    assert read == paths


def test_many_lines_that_name_one_picture_have_it_read_once(tmp_path, monkeypatch):
    """Each line of a split may name it: by its name, by a way round, by a link."""
    write_split(tmp_path, "train", range(2), 40)
    split = tmp_path / "train"
    (split / "sub").mkdir()
    records = [json.loads(line) for line in (split / "metadata.jsonl").read_text().splitlines()]
    first, second = records[0]["chosen"], records[0]["rejected"]
    for number, record in enumerate(records):
        (split / f"link-{number}.png").symlink_to(first)
        name = (first, f"sub/../{first}", f"link-{number}.png")[number % 3]
        record |= {"chosen": name, "rejected": second, "caption": f"scene {number}"}
    (split / "metadata.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    read, check = [], pictures.check_picture
    monkeypatch.setattr(pictures, "check_picture", lambda path: read.append(path) or check(path))
    monkeypatch.setattr(sage, "_READERS", 1)
    assert len(read_split(tmp_path, "train")) == 40 and len(read) == 2
    (split / second).write_bytes(b"no picture")
    read.clear()
    with pytest.raises(PSAError, match="no usable record"):
        read_split(tmp_path, "train", skip_bad=True)
    assert len(read) == 2


def test_covering_is_a_crop_of_the_whole_resized(tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 257, 3), np.uint8))
    for size, place in (((64, 64), (0.3, 0.8)), ((48, 96), (1, 0)), ((128, 64), (0, 1)), ((300, 200), (0.5, 0.5))):
        part, whole, (left, top) = cover(image, size, place)
        asked = image.resize(whole, Image.Resampling.LANCZOS).crop((left, top, left + size[0], top + size[1]))
        assert part.size == size
        assert np.abs(np.asarray(part, int) - np.asarray(asked, int)).max() <= 1


@pytest.mark.parametrize("size", [(2, 20_000), (20_000, 2)])
def test_a_long_thin_picture_takes_no_more_memory_than_another(size):
    before = peak_memory()
    part, whole, _ = cover(Image.new("RGB", size, RED), (512, 512), (0.5, 0.5))
    assert part.size == (512, 512) and max(whole) == 5_120_000 and part.getpixel((256, 256)) == RED
    assert peak_memory() - before < 50e6  # the whole resized has 10 GB
    with pytest.raises(PSAError, match="too long and thin"):
        cover(Image.new("L", (1, 100_000)), (512, 512), (0, 0))


def test_training_and_evaluation_read_the_same_pixels(tmp_path):
    """A phone's portrait, which its EXIF turns: each way in sees it upright."""
    from psa_core.training.inputs import load_picture

    exif = Image.Exif()
    exif[ORIENTATION] = 6
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    trained, _ = load_picture(tmp_path / "a.png", (64, 64), (0.5, 0.5))
    assert np.array_equal(open_picture(tmp_path / "a.png"), noise)
    assert torch.allclose(trained / 2 + 0.5, to_tensor([open_picture(tmp_path / "a.png")])[0], atol=1e-6)


def test_tensors_and_back():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8))
    pixels = to_tensor([image, quarters().resize((4, 6))])
    assert pixels.shape == (2, 3, 6, 4) and pixels.dtype == torch.float32
    assert pixels[0, 2, 5, 1] == image.getpixel((1, 5))[2] / 255
    assert torch.equal(to_tensor(to_images(pixels)), pixels)
    assert to_images(torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1))[0].getpixel((0, 0)) == (0, 128, 255)
    with pytest.raises(PSAError, match="one size"):
        to_tensor([image, quarters()])
    with pytest.raises(PSAError, match="one size"):
        to_tensor([])
    with pytest.raises(PSAError, match="shape"):
        to_images(torch.zeros(1, 6, 4, 3))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from PIL import Image
from psa_core.pictures import write_picture
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
try:
    write_picture(Image.effect_noise((64, 64), 50).convert("RGB"), Path(sys.argv[1]))
except OSError:
    print("said")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no limit of a file's size")
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_picture_that_does_not_fit_is_said(tmp_path, ending):
    arguments = [sys.executable, "-c", FULL_DISK, str(tmp_path / f"a.{ending}")]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout == "said\n"


@pytest.mark.parametrize("read", [check_picture, lambda path: thumbnail(path, 64)], ids=["check", "thumbnail"])
def test_threads_hold_one_large_picture_at_a_time(tmp_path, monkeypatch, read):
    large, upright = tmp_path / "large.png", psa_core.pictures._upright
    Image.new("RGB", (2050, 2050)).save(large)
    both_hold, met = threading.Barrier(2), []

    def decoded(image):
        with suppress(threading.BrokenBarrierError):
            both_hold.wait(0.5)
            met.append(image)
        return upright(image)

    monkeypatch.setattr("psa_core.pictures._upright", decoded)
    threads = [threading.Thread(target=read, args=(large,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not met


def test_a_thumbnail_is_the_whole_picture_made_smaller(tmp_path):
    quarters().save(tmp_path / "a.png")
    whole = open_picture(tmp_path / "a.png")
    whole.thumbnail((40, 40))
    assert thumbnail(tmp_path / "a.png", 40).tobytes() == whole.tobytes()
