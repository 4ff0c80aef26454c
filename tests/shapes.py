"""The modules whose shapes are checked while tests run, in the form of pytest's `--jaxtyping-packages`.

    python -m tests.shapes

A check costs some 50 microseconds a call. Modules that are called for every step or for every row of a draw are left
out: with them tests of simulated training took three to four times as long. `make sweep` checks every module.
"""

from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"
PACKAGES = ("foretune.gradients", "foretune.kernels", "foretune.analysis")
CALLED_OFTEN = (
    "foretune.analysis.dynamics",
    "foretune.analysis.losses",
    "foretune.analysis.schedule",
    "foretune.analysis.scores",
    "foretune.kernels.draws",
    "foretune.kernels.projection",
)
"""Modules and packages that are not checked."""


def checked_modules() -> list[str]:
    """Names of the modules that are checked."""
    files = [file for package in PACKAGES for file in sorted((SOURCE / package.replace(".", "/")).rglob("*.py"))]
    names = [".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return [
        name
        for name in names
        if name not in PACKAGES and not any(f"{name}.".startswith(f"{each}.") for each in CALLED_OFTEN)
    ]


if __name__ == "__main__":
    print(",".join((*checked_modules(), "beartype.beartype")))  # noqa: T201 - read by make
