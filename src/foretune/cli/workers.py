"""The crew that a command's options ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from foretune.cli.fields import filled
from foretune.cli.held import Held
from foretune.cli.options import ModelOptions
from foretune.cli.worker_options import WorkerOptions
from foretune.errors import UsageError
from foretune.experiment.items import ModelInHand
from foretune.model.load import LanguageModel, ModelSource
from foretune.work.crew import Crew
from foretune.work.engine import Engine


@contextmanager
def crew_for(options: WorkerOptions, source: ModelSource | Held, lm: LanguageModel) -> Iterator[Crew | None]:
    """The workers that are asked for, for the length of the block; None where none are.

    Args:
        options: of the command.
        source: where each worker loads the model from.
        lm: the model of this process.

    Raises:
        UsageError: workers of other processes for a model in memory, or no room for so many.
    """
    engine = filled(Engine, options)
    if not engine.asked:
        yield None
        return
    alone = engine.engine == "local" and engine.workers == 1
    if isinstance(source, Held) and not alone:
        raise UsageError("Workers load the model themselves, and this one is in memory. Pass its name or its folder.")
    opening = ModelInHand(lm) if alone or isinstance(source, Held) else source
    with engine.crew(opening, str(lm.device)) as crew:
        yield crew


def source_of(model: ModelOptions) -> ModelSource | Held:
    """Where the model of the options is loaded from."""
    if isinstance(model.model, Held):
        return model.model
    return ModelSource(model.model, model.dtype, model.device, model.revision, model.kind, model.trust_remote_code)
