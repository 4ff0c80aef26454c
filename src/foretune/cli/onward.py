"""What goes on from a forecast: adapters, and the real run of what is recommended, as objects, files and commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import foretune
from foretune.candidates.candidate import ALPHA, Candidate
from foretune.cli.held import Held
from foretune.cli.options import ModelOptions
from foretune.cli.settings import option_words, typed_again
from foretune.experiment.experiment import Experiment
from foretune.experiment.folder import FORECAST
from foretune.finetune.adapters import adapted_blocks
from foretune.finetune.lora_config import Adaptable, AdapterConfig, lora_config
from foretune.finetune.methods import LoRATuning
from foretune.finetune.snippet import head_note, python_snippet
from foretune.forecasting.forecast import PoolForecast
from foretune.handover.files import SCRIPT, write_next_run
from foretune.handover.next_run import NextRun, next_run, tune_options, why_none
from foretune.model.outputs import Outputs
from foretune.naming import layer_number, layer_path
from foretune.page import Listing

_NAMED = 3
"""Modules that the command which goes on may name."""


@dataclass(frozen=True)
class Onward:
    """What goes on from a forecast.

    Attributes:
        result: the forecast.
        outputs: the model as a function.
        best: the best adapters; None after a no, and where the forecast has none.
        picked: the adapters that are recommended; None where none are.
        run: the real run of what is recommended; None where there is none.
        why_none: why there is no run; None where there is one.
        tuning: options of `foretune tune` that train exactly what is recommended; None where there is no run.
    """

    result: PoolForecast
    outputs: Outputs
    best: AdapterConfig | None
    picked: AdapterConfig | None
    run: NextRun | None
    why_none: str | None
    tuning: Mapping[str, Any] | None

    @property
    def snippet(self) -> Listing | None:
        """Python that makes the recommended adapters, or the best ones where no adapters are recommended."""
        result = self.result
        if self.picked is not None and result.recommended is not None:
            config, chosen, rate, best = self.picked, result.recommended.candidate, result.recommended.adamw, ""
        elif self.best is not None and result.advice.beats_probing is not False:
            config, chosen, rate = self.best, result.advice.adapter, result.adapter_adamw
            best = "the best candidate with adapters, "
        else:
            return None
        if rate is None or chosen is None:
            return None
        text = python_snippet(config, f"AdamW: {rate.words}.", head_note(self.outputs, config))
        return Listing(f"LoraConfig of {best}{chosen.title} ({chosen.parameters:,} parameters)", text, "python")

    def commands(self, settings: tuple[Any, ...], out: Path | None) -> tuple[str, ...]:
        """The commands that make the run.

        Args:
            settings: the options of the forecast.
            out: its folder, where it has one.
        """
        if self.tuning is None:
            return ()
        if out is None:
            return self._typed(settings, self.tuning)
        words = ["foretune", "tune", "--from", str(out / FORECAST), "--out", f"{out}-run"]
        script = shlex.join(["python", str(out / SCRIPT)])
        return (script,) if _in_memory(settings) else (script, shlex.join(words))

    def _typed(self, settings: tuple[Any, ...], tuning: Mapping[str, Any]) -> tuple[str, ...]:
        """The command with all of its options, where few words say which weights it trains."""
        chosen = recommended(self.result)
        if chosen is None or _in_memory(settings):
            return ()
        options = dict(tuning)
        if chosen.rank is not None:
            which = _lora_options(chosen, self.outputs)
            if which is None:
                return ()
            del options["target_modules"]
            options |= which
        elif len(chosen.blocks) > _NAMED:
            return ()
        words = [*typed_again(settings[:3]), *option_words(options), "--out", f"runs/{options['method']}"]
        return (shlex.join(["foretune", "tune", *words]),)


def onward(result: PoolForecast, found: Experiment, able: Adaptable, model: ModelOptions) -> Onward:
    """What goes on from a forecast.

    Args:
        result: the forecast.
        found: the experiment that was asked.
        able: what peft adapts in its model.
        model: how the model was named.
    """
    chosen = result.recommended
    best, picked = (_adapters(item, found, able) for item in (result.advice.adapter, recommended(result)))
    none = _why_none(result, found, model)
    run = None
    if none is None and chosen is not None:
        trust = model.trust_remote_code
        run = next_run(found, chosen, picked, thresholded=result.thresholded, trust_remote_code=trust)
    return Onward(
        result=result,
        outputs=found.outputs,
        best=None if result.verdict == "no" else best,
        picked=picked,
        run=run,
        why_none=none,
        tuning=None if run is None or chosen is None else tune_options(chosen, found.outputs),
    )


def recommended(result: PoolForecast) -> Candidate | None:
    """What to train; None after a no."""
    return None if result.recommended is None else result.recommended.candidate


def handed_over(folder: Path, run: NextRun | None) -> str:
    """Write the files of a run to come; what was written, and where."""
    if run is None:
        return ""
    shown = dict.fromkeys(name.split("/")[0] for name in write_next_run(folder, run, foretune.__version__))
    return f"{folder}: {', '.join(['report.html', *shown])}"


def _why_none(result: PoolForecast, found: Experiment, model: ModelOptions) -> str | None:
    """Why there is no run to write down; None where there is one."""
    if isinstance(model.model, Held):
        return "The model is in memory, so no train.py is written. Give its folder or name instead."
    return why_none(result, found)


def _adapters(adapter: Candidate | None, found: Experiment, able: Adaptable) -> AdapterConfig | None:
    """The LoraConfig of a candidate; none where it has no adapters."""
    if adapter is None or adapter.rank is None:
        return None
    return lora_config(found.outputs, able.classes, adapter.blocks, adapter.rank, ALPHA)


def _in_memory(settings: tuple[Any, ...]) -> bool:
    """Whether model or rows have no name that a command could take."""
    values = [value for group in settings for value in vars(group).values()]
    return any(isinstance(value, Held) for value in values)


def _lora_options(item: Candidate, outputs: Outputs) -> dict[str, str] | None:
    """The options of `tune --method lora` that adapt exactly these weights; None where none do so in few words."""
    formula, wanted = LoRATuning(item.rank or 1).formula, set(item.blocks)
    if set(adapted_blocks(outputs, formula)) == wanted:
        return {}
    layers = {layer_number(path) for name in item.blocks if (path := layer_path(name)) is not None}
    if len(layers) == 1 and set(adapted_blocks(outputs, formula, tuple(layers))) == wanted:
        return {"layers": str(*layers)}
    modules = [name.removesuffix(".weight") for name in item.blocks]
    return {"target_modules": ",".join(modules)} if len(modules) <= _NAMED else None
