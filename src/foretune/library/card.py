"""`card` as a function: a section of a model card from a result that is kept."""

from __future__ import annotations

from pathlib import Path

from foretune.cli.card import kept_card


def card(result: str | Path) -> str:
    """A section of a model card in Markdown: data, labels, settings, predicted and measured figures, limits, versions.

    It begins with metadata as huggingface_hub reads them, and with the mark `<!-- proofread: no -->`, which you change when
    you have read it.

    Args:
        result: a folder made by `foretune forecast`, `tune` or `kernel` (or by `ft.forecast` and `ft.tune` with `out`, or
            `save`), or a file of --json.

    Raises:
        UsageError: there is no result, or one of another kind.
        KernelFolderError, StorageError: the folder is damaged.
    """
    return kept_card(Path(result))
