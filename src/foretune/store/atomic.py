"""The one place that writes files and folders: whole or not there, and nothing removed that foretune did not make.

A regular file is made in a temporary folder beside its target, forced to the disk and moved into place; a link stays,
its target is replaced; the mode of an existing file is kept, a new one has the mode that the umask leaves. Devices,
pipes and open descriptors (`/dev/stdout`) are written through. A folder is never replaced by a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from foretune.errors import ForetuneError, StorageError, UsageError
from foretune.store.workspace import contents, temporary_folder, workspace

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self|proc/thread-self|proc/\d+)/fd/(\d+)")
_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_LINKS = 40  # as many as the kernel follows
_REMEDIES = {
    (
        errno.ENOSPC,
        errno.EDQUOT,
    ): "The disk is full: free some space, or point --out or FORETUNE_CACHE to another disk.",
    (errno.EACCES, errno.EPERM, errno.EROFS): "It is not writable: choose another --out or file name, or set "
    "FORETUNE_CACHE to a folder of yours.",
    (errno.ENOTDIR, errno.EEXIST): "A file or a broken link stands where a folder is needed: choose another name.",
    (errno.ENAMETOOLONG,): "The name is too long for this file system: choose a shorter one.",
    (errno.ELOOP,): "The links lead in a circle: choose another name.",
    (errno.EFBIG,): "A file may not become that large here: raise the limit (`ulimit -f`), or choose another disk.",
    (errno.EMFILE, errno.ENFILE): "Too many files are open: raise the limit (`ulimit -n`).",
}
_OF_LIBRARIES = re.compile(r"os error (\d+)|No space left|PytorchStreamWriter|file write failed|unexpected pos \d+")


def storage_error(path: Path, error: OSError) -> StorageError:
    """A message for a failed write that says what to do about it."""
    number = errno.ENOSPC if error.errno is None and _is_full(path) else error.errno
    remedy = next((text for numbers, text in _REMEDIES.items() if number in numbers), "Check the place and try again.")
    shown = f"{str(path)[:120]}..." if number == errno.ENAMETOOLONG else path
    return StorageError(f"Cannot write {shown}: {error.strerror or error}. {remedy}")


@contextmanager
def library_writes(path: Path) -> Iterator[None]:
    """Errors of libraries that write to `path` in the block, a full disk for example, become ours.

    Raises:
        StorageError: the disk is full, or `path` cannot be written.
    """
    try:
        yield
    except (BrokenPipeError, ForetuneError):
        raise
    except OSError as error:
        raise storage_error(path, error) from error
    except Exception as error:
        found = _OF_LIBRARIES.search(str(error))
        if found is None:
            raise
        number = int(found[1]) if found[1] else errno.ENOSPC if _is_full(path) else errno.EIO
        raise storage_error(path, OSError(number, os.strerror(number))) from error


def _is_full(path: Path) -> bool:
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free < 2**20
    return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that becomes the content of `path` when the block ends well, and vanishes when it does not.

    Raises:
        UsageError: `path` is a folder.
        StorageError: the disk is full, or the place cannot be written.
    """
    with library_writes(path):
        target = _regular_target(path)
        with temporary_folder() if target is None else workspace(target.parent) as folder:
            temporary = folder / (path if target is None else target).name
            temporary.touch()
            mode = stat.S_IMODE((target if target is not None and target.exists() else temporary).stat().st_mode)
            yield temporary
            if target is None:
                _pass_through(temporary, path)
                return
            if stat.S_IMODE(temporary.stat().st_mode) != mode:
                temporary.chmod(mode)
            force_to_disk(temporary)
            temporary.replace(target)
            force_to_disk(target.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well; a folder that came there first stays instead.

    Raises:
        StorageError: the disk is full, or the place cannot be written.
    """
    with library_writes(path), workspace(path.parent) as folder:
        temporary = folder / path.name
        temporary.mkdir()
        yield temporary
        _force_tree_to_disk(temporary)
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not path.is_dir():
                raise
        force_to_disk(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As `new_folder`, but the folder takes the place of one at `path`, which the caller has recognised as foretune's own.

    Raises:
        StorageError: the disk is full, or the place cannot be written.
    """
    with library_writes(path), workspace(path.parent) as folder:
        temporary = folder / path.name
        temporary.mkdir()
        yield temporary
        _force_tree_to_disk(temporary)
        if path.is_dir():
            path.rename(folder / "before")
        temporary.rename(path)
        force_to_disk(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as a whole, or leave what was there. Raises as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_own_file(path: Path) -> None:
    """See that a name that foretune uses for a file of its own is free, or a regular file: no link, folder or device.

    Raises:
        StorageError: it is something else, which somebody else has put there.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise StorageError(
                f"{path} is not a regular file, and foretune keeps a file of its own under that name. Move it: "
                f"{move_command(path)}"
            )


def move_command(path: Path) -> str:
    """What to type to move a file or a folder out of the way, to a name that is free."""
    return shlex.join(["mv", "--", str(path), str(_free_name(path))])


def moved_aside(path: Path) -> Path:
    """Move a file or a folder, which may be somebody else's, out of the way; where it is now.

    Raises:
        OSError: it cannot be moved.
    """
    return path.rename(_free_name(path))


def _free_name(path: Path) -> Path:
    """`NAME.old`, or `NAME.old-2` and so on where that is taken."""
    new, number = Path(f"{path}.old"), 1
    while os.path.lexists(new):
        number += 1
        new = Path(f"{path}.old-{number}")
    return new


def refuse_changed(file: Path, ours: Callable[[Path], bool]) -> None:
    """See that what stands where a file will be written is one that foretune wrote, and as it wrote it.

    Args:
        file: the place.
        ours: whether a file is one that foretune wrote.

    Raises:
        UsageError: it is not.
        StorageError: it cannot be written.
    """
    check_file(file)
    if os.path.lexists(file) and not ours(file):
        raise UsageError(
            f"{file} is not as foretune wrote it, and would be overwritten. Choose another --out, or move it: "
            f"{move_command(file)}"
        )


def append_line(path: Path, line: str) -> None:
    """Add a line to a file of foretune's own, and force it to the disk.

    Raises:
        StorageError: the disk is full, or the file cannot be written.
    """
    check_own_file(path)
    with library_writes(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def check_file(path: Path) -> Path | None:
    """See, before the work, that a file can be written at `path`.

    Returns:
        The regular file to replace or to make, behind all links; None where `path` is written through.

    Raises:
        UsageError: `path` is a folder.
        StorageError: nothing can be written there.
    """
    with library_writes(path):
        target = _regular_target(path)
        if target is not None:
            with workspace(target.parent):
                pass
        return target


def check_folder(path: Path) -> None:
    """See, before the work, that files can be written to the folder `path`, which is made where it is missing.

    Raises:
        StorageError: nothing can be written there.
    """
    with library_writes(path), workspace(path):
        pass


def names_in(folder: Path) -> list[str]:
    """See `foretune.store.workspace.contents`.

    Raises:
        StorageError: it is a file, or cannot be read.
    """
    try:
        return contents(folder)
    except OSError as error:
        raise storage_error(folder, error) from error


def force_to_disk(path: Path) -> None:
    """Let a file, or the names in a folder, survive a loss of power, as far as the file system can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def _force_tree_to_disk(folder: Path) -> None:
    for file in folder.rglob("*"):
        force_to_disk(file)
    force_to_disk(folder)


def _regular_target(path: Path) -> Path | None:
    """The regular file to replace or to make, behind all links; None where `path` is to be written through.

    Raises:
        UsageError: it is a folder.
        OSError: it cannot be written, or lies nowhere.
    """
    if _descriptor(path) is not None:
        return None
    target = Path(os.path.realpath(path))
    try:
        found = path.stat()
    except FileNotFoundError:
        if path.is_symlink() and not target.parent.is_dir():
            raise FileNotFoundError(
                errno.ENOENT, f"it is a link to {target}, in a folder that does not exist"
            ) from None
        return target
    if stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{str(path)!r} is a folder; expected a file name, {path / 'NAME.json'} for example.")
    if not stat.S_ISREG(found.st_mode):
        return None
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "the file is write-protected")
    return target


def _descriptor(path: Path) -> int | None:
    """The number of the open descriptor that `path` stands for, if it does."""
    place = os.path.abspath(path)  # noqa: PTH100 - a Path has no form without `..` that leaves links alone
    for _ in range(_LINKS):
        found = _DESCRIPTOR.fullmatch(place)
        if found or place in _STREAMS:
            return int(found[1]) if found else _STREAMS[place]
        if not os.path.islink(place):  # noqa: PTH114
            break
        place = os.path.normpath(os.path.join(os.path.dirname(place), os.readlink(place)))  # noqa: PTH115, PTH118, PTH120
    return None


def _pass_through(temporary: Path, path: Path) -> None:
    """Copy a file to a device, a pipe or an open descriptor."""
    number = _descriptor(path)
    sys.stdout.flush()
    handle = os.open(path, os.O_WRONLY) if number is None else os.dup(number)
    with temporary.open("rb") as source, os.fdopen(handle, "wb") as place:
        shutil.copyfileobj(source, place)
