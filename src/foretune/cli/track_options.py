"""The options of `track`, in a group as in `foretune.cli.options`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from foretune.cli.fields import Panel, option
from foretune.cli.ranges import NotWith


@dataclass(frozen=True)
class TrackOptions:
    """Whether runs are recorded."""

    on: Annotated[
        bool, option(Panel.RUN, "From now on, record every run of `foretune tune --from` in the cache folder.", "--on")
    ] = False
    off: Annotated[
        bool,
        option(Panel.RUN, "Stop recording, and keep the records.", "--off"),
        NotWith("on"),
    ] = False
    clear: Annotated[
        bool,
        option(Panel.RUN, "Stop recording, and delete all records.", "--clear"),
        NotWith("on"),
    ] = False
