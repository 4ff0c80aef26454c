"""Draws the first screen of a forecast as it stands in a terminal: `python -m benchmarks.screen`.

It runs the command of docs/start.md, and writes docs/pictures/screen.svg. The picture needs no font from the network.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.text import Text

from foretune.cli.show import kept_page
from foretune.pages.console import PlainConsole
from foretune.pages.terminal import print_page

ROOT = Path(__file__).parent.parent
COMMAND = ("forecast", "bert-tiny", "movies", "--k", "8", "--test", "64", "--out", "runs/movies")
WIDTH = 96
"""Columns: what a page of the documentation shows in a readable size."""
_FONTS = re.compile(r"@font-face \{.*?\}\n", re.DOTALL)
_MONOSPACE = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def picture(folder: Path) -> str:
    """The screen of the result in a folder, as SVG."""
    console = PlainConsole(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ foretune {' '.join(COMMAND)}", style="bold"))
    print_page(console, kept_page(folder), where="foretune show runs/movies --details")
    drawn = console.export_svg(title="foretune", unique_id="screen")
    return _FONTS.sub("", drawn).replace("Fira Code, monospace", _MONOSPACE)


def main() -> None:
    """Run the command, and write the picture."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(
            [sys.executable, "-m", "foretune", *COMMAND, "--quiet"], check=True, cwd=place, stdout=subprocess.DEVNULL
        )
        made = picture(Path(place) / COMMAND[-1]).replace(f"{place}/", "")
    (ROOT / "docs" / "pictures" / "screen.svg").write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
