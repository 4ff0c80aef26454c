"""The bytes and the characters of a file: regular files only, unpacked, in one encoding that is known or named."""

from __future__ import annotations

import codecs
import errno
import gzip
import re
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

from foretune.errors import DataError, UsageError

ENCODING = "utf-8-sig"
"""UTF-8, with or without its signature."""

_MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_PACKED = {
    b"\x1f\x8b": "is packed with gzip, and its name does not say so. Add .gz to its name, or unpack it first.",
    b"PK\x03\x04": "is a zip archive or an Excel workbook. Unpack it first, or save the sheet as CSV UTF-8.",
    b"PAR1": "is a Parquet file. Give it a name that ends in .parquet.",
    b"ARROW1": "is an Arrow file. Give it a name that ends in .arrow.",
}
"""How files start that are not text -> what to say of them."""
_ENCODINGS = {
    "cp1252": "Western Europe", "cp1251": "Cyrillic", "shift_jis": "Japanese", "gb18030": "Chinese", "latin-1": "any bytes",
}  # fmt: skip
_WEB_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)\b", re.I)
_POINTER = b"version https://git-lfs.github.com/spec"
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
          stat.S_IFSOCK: "a socket"}  # fmt: skip


_MARK = re.compile("^\ufeff+", re.M)
"""The signature of UTF-8 at the start of a line: of the file, or of a file that was joined to it."""


@dataclass(frozen=True)
class Reading:
    """How files of text are read.

    Attributes:
        delimiter: what separates the fields of a .csv or .tsv file; None for the comma and the tab.
        encoding: encoding of the characters; None for UTF-8.

    Raises:
        UsageError: the delimiter is not one character, or there is no such encoding.
    """

    delimiter: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            character = {"tab": "\t", "\\t": "\t"}.get(self.delimiter.lower(), self.delimiter)
            if len(character) != 1 or character in '"\r\n\0':
                raise UsageError(f"--delimiter {self.delimiter!r}: expected one character, such as ';', or tab.")
            object.__setattr__(self, "delimiter", character)
        if self.encoding is not None:
            try:
                b"a".decode(self.encoding)
            except UnicodeError:
                pass  # more bytes may be needed
            except (LookupError, ValueError) as error:
                raise UsageError(
                    f"--encoding {self.encoding!r}: Python knows no such encoding. Expected for example utf-8, cp1252, "
                    "utf-16 or latin-1."
                ) from error


def file_bytes(path: Path) -> bytes:
    """What a regular file holds, unpacked where its name ends in .gz.

    Raises:
        UsageError: the path is a folder, a pipe or a device.
        DataError: the file cannot be read or unpacked, or Git LFS has not fetched it yet.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise UsageError(
                f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'not a file')}. Expected a regular file; write its content to "
                "one first."
            )
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"Cannot unpack {path}: {error}. Expected a whole gzip file; fetch it again.") from error
    except OSError as error:
        raise DataError(broken_link(path) or f"Cannot read {path}: {error.strerror or error}.") from error
    if content.startswith(_POINTER):
        raise DataError(f"{path} is a pointer of Git LFS, not the data. Run `git lfs pull` in its folder.")
    return content


def broken_link(path: Path) -> str | None:
    """What to say of a link that leads nowhere; None of anything else."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return f"{path} is a link that leads back to itself. Expected a file; make the link again."
        if error.errno == errno.ENOENT and path.is_symlink():
            return (
                f"{path} is a link to {path.readlink()}, which does not exist. Fetch the file, or make the link again."
            )
    return None


def file_text(path: Path, reading: Reading) -> str:
    """The characters of a text file.

    Raises:
        UsageError, DataError: see `file_bytes`; or the file has another encoding (the message names the likely one).
    """
    content = file_bytes(path)
    if content and not content.strip(b"\0"):
        raise DataError(f"{path} holds zero bytes only: it was never written to its end. Fetch it again.")
    if _WEB_PAGE.match(content):
        raise DataError(
            f"{path} is a web page (HTML), perhaps one that says why there is no file. Fetch the file itself."
        )
    packed = next((said for start, said in _PACKED.items() if content.startswith(start)), None)
    if packed is not None:
        raise DataError(f"{path} {packed}")
    if reading.encoding is None:
        _refuse_wide(path, content)
    try:
        text = content.decode(reading.encoding or _marked(path, content))
    except UnicodeError as error:
        raise DataError(_undecodable(path, content, reading.encoding, error)) from error
    return _MARK.sub("", text)


def _refuse_wide(path: Path, content: bytes) -> None:
    """See that characters are not of two or four bytes.

    Raises:
        DataError: many bytes are zero; the message names the encoding.
    """
    start = content[:1000]
    zeros = start.count(0) / max(1, len(start))
    if zeros > 1 / 4 and not any(content.startswith(mark) for mark, _ in _MARKS):
        order = "le" if start[:1] != b"\0" else "be"
        width, seen = (32, "three bytes of four are") if zeros > 0.6 else (16, "every second byte is")
        raise DataError(f"{path} is not in UTF-8: {seen} zero. Add --encoding utf-{width}-{order}.")


def _marked(path: Path, content: bytes) -> str:
    """UTF-8, unless the file starts with the mark of another encoding."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            raise DataError(f"{path} starts with the mark of {encoding.upper()}. Add --encoding {encoding}.")
    return ENCODING


def _undecodable(path: Path, content: bytes, encoding: str | None, error: UnicodeError) -> str:
    where = ""
    if isinstance(error, UnicodeDecodeError):
        line = content.count(b"\n", 0, error.start) + 1
        where = f": line {line} has the byte 0x{content[error.start]:02x}"
    if encoding is not None:
        return f"{path} is not in {encoding}{where}. Name another --encoding, or leave it out for UTF-8."
    if b"\0" in content[:1000]:
        return f"{path} is not text in UTF-8{where}. Expected a text file."
    fitting = ", ".join(f"{name} ({letters})" for name, letters in _ENCODINGS.items() if _decodes(content, name))
    return (
        f"{path} is not in UTF-8{where}. Add --encoding with the one it was written in. Its bytes fit {fitting}; only one "
        "gives the right letters, so look at the texts. Or save it as UTF-8."
    )


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeError:
        return False
    return True
