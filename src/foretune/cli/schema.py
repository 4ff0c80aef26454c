"""`schema`: what the fields of a result in JSON mean."""

from __future__ import annotations

import json
from pathlib import Path

from foretune.cli.options import SchemaName
from foretune.errors import UsageError, nearest
from foretune.pages.console import console

_SCHEMAS = Path(__file__).parent.parent / "pages" / "schemas"


def run_schema(name: SchemaName) -> None:
    """Print the JSON schema of a kind of result, or the kinds that there are.

    Raises:
        UsageError: there is no such kind.
    """
    kinds = sorted(file.stem for file in _SCHEMAS.glob("*.json"))
    if name.kind is None:
        console().print("\n".join(kinds))
        return
    if name.kind not in kinds:
        raise UsageError(
            f"There is no result of the kind {name.kind!r}.{nearest(name.kind, kinds)} Known: {', '.join(kinds)}."
        )
    text = (_SCHEMAS / f"{name.kind}.json").read_text(encoding="utf-8")
    console().print(json.dumps(json.loads(text), indent=1), soft_wrap=True, highlight=False)
