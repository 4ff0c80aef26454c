"""Draws the pictures of docs/explanation/forecast.md from the folder of a forecast.

python examples/tickets.py tickets.csv
foretune forecast minilm tickets.csv --text message --label category --k 8 --test 60 --out runs/tickets
foretune tune --from runs/tickets/forecast.json --out runs/tickets-run
python -m benchmarks.forecast_pictures runs/tickets
"""

from __future__ import annotations

import sys
from pathlib import Path

from foretune.cli.beside import real_runs
from foretune.cli.show import kept_page
from foretune.forecasting.figures import with_real_runs
from foretune.pages.svg import svg

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
NAMES = ("candidates", "curve")


def main() -> None:
    """Write one file a picture."""
    folder = Path(sys.argv[1])
    page = with_real_runs(kept_page(folder), real_runs(folder))
    for figure in page.figures:
        if figure.name in NAMES:
            (PICTURES / f"{figure.name}.svg").write_text(svg(figure), encoding="utf-8")


if __name__ == "__main__":
    main()
