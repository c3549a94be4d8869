"""CPU time and memory of a data set by its number of records: built (drawing stubbed), labelled by rule, read, checked.

    python bench/dataset_scale.py [--records 1000 10000 100000] [--picture FILE.png]

A record is a pair of pictures with a user; 100 users see each pair. Memory is the peak of what Python and numpy
allocate (tracemalloc) beyond the start of each step, divided by the records; time is measured without it. What every
run takes, such as the pictures that are decoded at a time, weighs most on few records: so the last line says what a
further record takes, from the smallest to the largest number. Sage's form of the same records is read as well, and the
compact one with a judge's answers to each pair for each kind of viewer. The drawing is a stub that draws one colour.
"""

import argparse
import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from psa_core.build import Drawing, build_dataset, drawn_pairs, plan
from psa_core.build.sage_form import write_sage_form
from psa_core.concepts.pairs import PromptPair
from psa_core.dataset import read_split
from psa_core.dataset.answers import JUDGED, LEFT, Answer, picture_name, scene_id
from psa_core.dataset.check import check_dataset
from psa_core.dataset.sage import read_sage_split
from psa_core.population import sample_users
from psa_core.schema import CATEGORIES

USERS = 100
TRAINED_AND_TESTED = ("train", "val", "test_seen", "test_unseen")
STEPS = ("build", "label", "read", "read Sage's form", "check", "read judged")


class Stub:
    def draw(self, prompts, seeds):
        return [Image.new("RGB", (64, 64), (seed % 251, seed % 241, seed % 239)) for seed in seeds]


def prompts(count: int) -> list[PromptPair]:
    pairs = []
    for number in range(count):
        category, thing = CATEGORIES[number % len(CATEGORIES)], f"thing{number % 5}"
        scene = f"a scene {number}"
        pairs.append(PromptPair(category, thing, f"{scene} with {thing}", scene, "named", "by hand"))
    return pairs


def judge(folder: Path, names: list[str]) -> None:
    """Leave a judge's answers to all pairs."""
    with open(folder / JUDGED, "wb") as file:
        for split in (read_split(folder, name, answers=False) for name in names):
            kinds = sorted({user.banned_categories for user in split.profiles})
            for scene in map(split.scene, range(split.scenes)):
                pictures = [picture_name(path, folder) for path in scene.pictures]
                for kind in kinds:
                    file.write(Answer(scene_id(scene, folder), kind, *pictures, LEFT).to_line())


def measured(work: Callable[[], Any]) -> tuple[float, int]:
    """(CPU seconds, peak bytes) of two runs of the same work: the first timed, the second traced."""
    began = time.process_time()
    work()
    seconds = time.process_time() - began
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return seconds, peak


def run(records: int, place: Path) -> dict[str, tuple[float, int]]:
    users, given = sample_users(USERS, 0), prompts(max(10, records // USERS))
    folders = iter(place / str(number) for number in range(100))
    built: list[Path] = []

    def build() -> None:
        folder = next(folders)
        planned = plan(drawn_pairs(given, 0), users, 0)
        build_dataset(folder, planned, users, 0, Drawing({}, Stub, 16))
        built.append(folder)

    def label() -> None:
        for split in splits:
            split.examples()

    def read() -> None:
        for name in names:
            read_split(built[0], name)

    def read_sage() -> None:
        for name in names:
            read_sage_split(built[0], name)

    found = {"build": measured(build)}
    names = [name for name in TRAINED_AND_TESTED if (built[0] / name).is_dir()]
    splits = [read_split(built[0], name) for name in names]
    write_sage_form(built[0])
    found |= {"label": measured(label), "read": measured(read), "read Sage's form": measured(read_sage)}
    found["check"] = measured(lambda: check_dataset(built[0]))
    judge(built[0], names)
    return found | {"read judged": measured(read)}


def further(results: dict[int, dict[str, tuple[float, int]]]) -> dict[str, tuple[float, float]]:
    """(microseconds, bytes) that a further record takes, by step, from the smallest to the largest number of them."""
    few, many = min(results), max(results)
    return {
        step: tuple((results[many][step][n] - results[few][step][n]) / (many - few) * (1e6, 1)[n] for n in (0, 1))
        for step in STEPS
    }


def plot(results: dict[int, dict[str, tuple[float, int]]]) -> Image.Image:
    """Seconds and bytes a record over the records, both axes logarithmic."""
    picture = Image.new("RGB", (1100, 460), "white")
    seconds = {n: {step: pair[0] for step, pair in found.items()} for n, found in results.items()}
    memory = {n: {step: pair[1] / n for step, pair in found.items()} for n, found in results.items()}
    panel(picture, 80, "CPU seconds", seconds, (-2, 3))
    panel(picture, 620, "bytes a record", memory, (0, 5))
    return picture


def panel(
    picture: Image.Image, left: int, title: str, values: dict[int, dict[str, float]], powers: tuple[int, int]
) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=14)
    colours = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
    top, width, height = 60, 420, 330
    first, last = math.log10(min(values)), math.log10(max(values))

    def spot(records: float, value: float) -> tuple[float, float]:
        x = 0.05 + 0.9 * (math.log10(records) - first) / max(last - first, 1e-9)
        y = (math.log10(max(value, 10.0 ** powers[0])) - powers[0]) / (powers[1] - powers[0])
        return left + x * width, top + height - y * height

    draw.text((left, 20), f"{title}, by the number of records", "black", font)
    draw.rectangle((left, top, left + width, top + height), outline="black")
    for power in range(powers[0], powers[1] + 1):
        draw.text((left - 60, spot(min(values), 10.0**power)[1] - 8), f"{10.0**power:g}", "black", font)
    for records in values:
        draw.text((spot(records, 1)[0] - 20, top + height + 6), f"{records:,}", "black", font)
    for number, step in enumerate(STEPS):
        draw.line([spot(records, found[step]) for records, found in values.items()], fill=colours[number], width=3)
        draw.text((left + 10, top + 8 + 18 * number), step, colours[number], font)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--picture", type=Path, default=Path("dataset_scale.png"))
    args = parser.parse_args()
    results = {}
    print(f"{'records':>8}  " + "  ".join(f"{step:>24}" for step in STEPS))
    for records in args.records:
        with tempfile.TemporaryDirectory() as place:
            results[records] = run(records, Path(place))
        cells = [f"{seconds:8.2f} s {peak / records:9.1f} B" for seconds, peak in results[records].values()]
        print(f"{records:8}  " + "  ".join(f"{cell:>24}" for cell in cells), flush=True)
    if len(results) > 1:
        cells = [f"{microseconds:7.0f} us {size:9.1f} B" for microseconds, size in further(results).values()]
        print(f"{'further':>8}  " + "  ".join(f"{cell:>24}" for cell in cells))
    plot(results).save(args.picture)
    print(f"Plot: {args.picture}")


if __name__ == "__main__":
    main()
