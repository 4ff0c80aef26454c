"""Whether the Hugging Face hub is there, asked once and shortly, instead of its client's minute of repetitions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def hub_answers() -> bool:
    """Whether the hub can be reached; never where `HF_HUB_OFFLINE` says that it is not to be asked."""
    import huggingface_hub
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
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
