"""The built-in text: movie-review snippets with mean human ratings.

Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text" (ICWSM 2014):
10,605 snippets, each rated by 20 people from -4 (most negative) to 4. A mean rating of at least +0.5 counts as
positive, of at most -0.5 as negative; the snippets in between are left out.
"""

from __future__ import annotations

import io
import tarfile

from foretune.errors import StorageError
from foretune.store.atomic import move_command
from foretune.store.packages import Package, fetched
from foretune.text.example import Rows

PACKAGE = Package(
    name="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    source=True,
    about="movie-review snippets with human ratings (Hutto & Gilbert 2014)",
)
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
NEUTRAL = 0.5


def movie_rows() -> Rows:
    """The snippets with columns `text`, `label` (positive or negative) and `rating`.

    Raises:
        StorageError: the archive could not be fetched or is damaged.
    """
    archive = fetched(PACKAGE)
    try:
        inner = _member(archive.read_bytes(), _INNER)
        lines = _member(inner, _FILE).decode("utf-8").splitlines()
    except (tarfile.TarError, KeyError) as error:
        raise StorageError(
            f"{archive} does not hold {_FILE}: {error}. Move it away and try again: {move_command(archive)}"
        ) from error
    rows = []
    for line in lines:
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) >= NEUTRAL:
            label = "positive" if float(rating) > 0 else "negative"
            rows.append({"text": text.strip(), "label": label, "rating": float(rating)})
    return Rows(tuple(rows), "movies")


def _member(archive: bytes, name: str) -> bytes:
    """One file of a compressed tar archive."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        file = tar.extractfile(name)
        if file is None:
            raise KeyError(name)
        return file.read()
