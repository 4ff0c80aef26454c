"""Whether the Hugging Face hub is there, asked once a minute and shortly; its own client repeats itself for a minute."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

_VALID = 60.0
"""For how many seconds an answer holds."""


def hub_answers() -> bool:
    """Whether the hub can be reached; never where `HF_HUB_OFFLINE` says that it is not to be asked."""
    from huggingface_hub import constants

    return not constants.is_offline_mode() and _answers(constants.ENDPOINT, int(time.monotonic() // _VALID))


@lru_cache(maxsize=1)
def _answers(endpoint: str, _minute: int) -> bool:
    import huggingface_hub
    from huggingface_hub import constants

    try:
        huggingface_hub.get_session().head(endpoint, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # no network, no name, no certificate: whatever it is, there is no answer
        return False
    return True


@contextmanager
def local_copies_only() -> Iterator[None]:
    """For the length of the block the libraries look at what they have fetched before, as with `HF_HUB_OFFLINE=1`."""
    from datasets import config
    from huggingface_hub import constants

    places: list[Any] = [config, constants]
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value
