"""The run that a forecast recommends, as plain values: what a script needs to know, and no more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretune.candidates.adam import PredictedRun
from foretune.candidates.scored import ScoredCandidate
from foretune.errors import UsageError
from foretune.experiment.experiment import Experiment
from foretune.finetune.lora_config import AdapterConfig
from foretune.forecasting.forecast import PoolForecast
from foretune.forecasting.recommended import Recommendation
from foretune.model.answer import AnswerLogits
from foretune.model.encoding import Encoded
from foretune.model.head import HEAD, HeadLogits
from foretune.model.kinds import loading_class
from foretune.model.load import HALF, model_place
from foretune.model.outputs import Outputs, base_of, body_of
from foretune.text.example import Example

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class NextRun:
    """A run to come.

    Attributes:
        title: what is trained, in words.
        model: how the model was named.
        place: what `from_pretrained` loads.
        loader: the auto class that loads it.
        loading: other arguments of `from_pretrained`.
        dtype: name of the type of the weights, such as `float32`.
        labels: names of the classes, in their order.
        metric: `accuracy`, `f1` or `matthews`.
        limit: longest input in tokens.
        inputs: names of what a tokenizer gives and the model takes.
        padding: input -> what fills it up; 0 for others.
        rows: part -> its rows, by index and text.
        answers: token ids of the label words; None where a head answers.
        words: the label words as the tokenizer reads them.
        masked: whether the words stand where a mask is.
        appended: tokens that the tokenizer puts behind a prompt, which are cut off.
        pooling: pooling of a head: `mean`, `cls` or `last`.
        body: path of the transformer body in the loaded model; empty where it is the model.
        head: weight and bias that the head starts with; empty for words.
        adapter: arguments of `peft.LoraConfig`; None where weights are tuned in full.
        adapter_start: module -> the matrix A that its adapter starts with, of which the forecast is; B is zero.
        blocks: parameters that are tuned in full, without those of a head.
        trains_head: whether the head is trained too.
        modules: names of the modules that get adapters, in the loaded model.
        learning_rate, batch, steps, every: of AdamW; every so many steps the run is evaluated.
        schedule: of the learning rate, as transformers names it.
        alone: one text at a time, unpadded: padding would change what the model computes.
        predicted: step -> validation loss of the forecast, nats; the first before training.
        score: predicted test score.
        thresholded: that score tells two classes apart by a threshold set on validation examples.
    """

    title: str
    model: str
    place: str
    loader: str
    loading: Mapping[str, Any]
    dtype: str
    labels: tuple[str, ...]
    metric: str
    limit: int
    inputs: tuple[str, ...]
    padding: Mapping[str, int]
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    answers: tuple[int, ...] | None
    words: tuple[str, ...]
    masked: bool
    appended: int
    pooling: str
    body: str
    head: Mapping[str, np.ndarray]
    adapter: Mapping[str, Any] | None
    adapter_start: Mapping[str, np.ndarray]
    blocks: tuple[str, ...]
    trains_head: bool
    modules: tuple[str, ...]
    learning_rate: float
    batch: int
    steps: int
    every: int
    schedule: str
    alone: bool
    predicted: Mapping[int, float]
    score: float
    thresholded: bool

    @property
    def causal(self) -> bool:
        """Whether a word follows a prompt."""
        return self.answers is not None and not self.masked


def why_none(found: PoolForecast, experiment: Experiment) -> str | None:
    """Why there is no run to write down; None where there is one."""
    picked = found.recommended
    if picked is None or picked.verdict == "no":
        return "The forecast says no, so no train.py is written."
    if picked.adamw.learning_rate is None:
        return "No learning rate lowers the validation loss, so no train.py is written."
    if found.warm_up:
        return "This forecast starts after a warm-up, which train.py cannot repeat, so no train.py is written."
    lm = experiment.outputs.lm
    if lm.dtype in HALF:
        return "Training needs weights of full precision, so no train.py is written. Repeat with --dtype float32."
    if any("lora_" in name for name in experiment.outputs.parameters()):
        return "The model has adapters already, so no train.py is written."
    return None


def next_run(
    experiment: Experiment,
    picked: Recommendation,
    config: AdapterConfig | None,
    *,
    thresholded: bool,
    trust_remote_code: bool = False,
) -> NextRun:
    """The run that a forecast recommends.

    Args:
        experiment: model and examples.
        picked: what to train, with a learning rate.
        config: the adapters of LoRA, None for full tuning.
        thresholded: two classes are told apart by a threshold set on validation examples, as the forecast says.
        trust_remote_code: the model's own Python code is run.
    """
    outputs, task, chosen = experiment.outputs, experiment.task, picked.candidate
    lm = outputs.lm
    place, revision = model_place(lm.name, lm.revision)
    local = Path(place).is_dir()
    loader, options = loading_class(base_of(lm.module).config, lm.kind)
    first = outputs.encode(experiment.split.train[0])
    return NextRun(
        title=chosen.title,
        model=lm.name,
        place=str(Path(place).absolute()) if local else place,
        loader=loader.__name__,
        loading={
            **({} if local or revision is None else {"revision": revision}),
            **({"trust_remote_code": True} if trust_remote_code else {}),
            **options,
        },
        dtype=str(lm.dtype).removeprefix("torch."),
        labels=tuple(task.labels),
        metric=task.metric,
        limit=outputs.encode.limit,
        inputs=("input_ids", "attention_mask", *first.others),
        padding=_padding(outputs, first.others),
        rows={
            part: [_row(outputs, each, n) for n, each in enumerate(getattr(experiment.split, part))] for part in PARTS
        },
        adapter=None if config is None else config.arguments,
        adapter_start={} if config is None else _adapter_start(outputs, chosen),
        blocks=() if config is not None else chosen.blocks,
        trains_head=bool(chosen.head),
        modules=() if config is None else tuple(name.removesuffix(".weight") for name in chosen.blocks),
        learning_rate=_rate(picked),
        batch=picked.adamw.batch,
        steps=picked.adamw.steps,
        every=_interval(picked),
        schedule=picked.adamw.schedule,
        alone=bool(outputs.alone),
        predicted=dict(zip(_predicted(picked).steps, _predicted(picked).validation_losses, strict=True)),
        score=picked.predicted.score.value,
        thresholded=thresholded,
        **_asked(outputs),
    )


def tune_options(picked: Recommendation, outputs: Outputs) -> dict[str, object]:
    """The options of `foretune tune` that train exactly what is recommended, as it is recommended, by name.

    Args:
        picked: what to train, with a learning rate.
        outputs: of the forecast; a head that was left out of it stays as it is.
    """
    frozen = isinstance(outputs, HeadLogits) and not picked.candidate.head
    return {
        **_method_options(picked.candidate),
        **({"exclude_head": True} if frozen else {}),
        "learning_rate": _rate(picked),
        "batch_size": picked.adamw.batch,
        "steps": picked.adamw.steps,
        "evaluate_every": _interval(picked),
        **({} if picked.adamw.schedule == "constant" else {"schedule": picked.adamw.schedule}),
        "best_by": "loss",
        "dropout": False,
    }


def _method_options(chosen: ScoredCandidate) -> dict[str, object]:
    tuning: Any = chosen.tuning
    if tuning.label == "lora":
        return {
            "method": "lora",
            "rank": tuning.rank,
            "alpha": tuning.alpha,
            "target_modules": ",".join(tuning.targets),
        }
    return {"method": "lp"} if tuning.label == "lp" else {"method": "ft", "parameters": ",".join(tuning.blocks)}


def _adapter_start(outputs: Outputs, chosen: ScoredCandidate) -> dict[str, np.ndarray]:
    """The matrix A of each adapted weight, as the kernel and `foretune tune` draw it."""
    formula: Any = chosen.tuning.formula  # pyright: ignore[reportAttributeAccessIssue]
    parameters, widths = outputs.parameters(), outputs.widths()
    return {
        name.removesuffix(".weight"): formula.matrix(name, parameters[name].numel() // widths[name]).astype(np.float32)
        for name in chosen.blocks
    }


def _rate(picked: Recommendation) -> float:
    """The learning rate as it is typed.

    Raises:
        UsageError: no learning rate lowers the loss.
    """
    return float(f"{_predicted(picked).learning_rate:.3g}")


def _predicted(picked: Recommendation) -> PredictedRun:
    """The simulated run of the recommended learning rate.

    Raises:
        UsageError: no learning rate lowers the loss.
    """
    run = picked.adamw.predicted
    if run is None:
        raise UsageError(
            f"No learning rate of {picked.candidate.title} lowers the validation loss: train something else."
        )
    return run


def _interval(picked: Recommendation) -> int:
    """Steps between two evaluations of the simulated run."""
    steps = _predicted(picked).steps
    return steps[1] - steps[0]


def _padding(outputs: Outputs, others: Iterable[str]) -> dict[str, int]:
    """What fills up shorter texts, where it is not 0, as in `foretune.model.encoding.padded`."""
    short, long = (Encoded((0,) * size, 0, cut=False, others=dict.fromkeys(others, (0,) * size)) for size in (1, 2))
    batch = outputs.collate([short, long])
    found = {name: int(batch[name][0, 1]) for name in ("input_ids", *others)}
    return {name: value for name, value in found.items() if value}


def _row(outputs: Outputs, example: Example, index: int) -> dict[str, Any]:
    """An example as it stands in a file of rows."""
    row: dict[str, Any] = {"index": index, "text": example.text}
    if example.text2 is not None:
        row["text2"] = example.text2
    row["label"] = example.label
    if isinstance(outputs, AnswerLogits):
        encode: Any = outputs.encode
        row["prompt"] = encode.written(example)
        if not encode.masked:
            row["completion"] = encode.completion(example.label)
    return row


def _asked(outputs: Outputs) -> dict[str, Any]:
    """What of a run depends on who answers: words or a head."""
    if isinstance(outputs, HeadLogits):
        lm = base_of(outputs.lm.module)
        body = body_of(lm)
        path = next(name for name, module in lm.named_modules() if module is body)
        parameters = outputs.parameters()
        weights = {name.partition(".")[2]: parameters[name].detach().cpu().numpy() for name in HEAD}
        nothing: dict[str, Any] = {"answers": None, "words": (), "masked": False, "appended": 0}
        return {**nothing, "pooling": outputs.pooling, "body": path, "head": weights}
    answering: Any = outputs
    encode = answering.encode
    return {
        "answers": tuple(answering.module.output_layer.ids.tolist()),
        "words": tuple(answering.task.words[label] for label in answering.task.labels),
        "masked": encode.masked,
        "appended": encode.appended,
        "pooling": "",
        "body": "",
        "head": {},
    }
