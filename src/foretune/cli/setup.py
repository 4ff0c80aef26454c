"""From options to objects: task, rows, split, model, outputs, parameters, formulas, methods and training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from foretune.cli.options import (
    BlockOptions,
    DataOptions,
    FormulaOptions,
    MethodOptions,
    OutputOptions,
    TrainingOptions,
)
from foretune.errors import DataError, UsageError, nearest
from foretune.text.builtin import TASKS, load_data, load_rows, load_task
from foretune.text.example import Rows
from foretune.text.rows import require_columns
from foretune.text.split import Split, full_split
from foretune.text.task import Task

if TYPE_CHECKING:
    from foretune.finetune.methods import Method
    from foretune.finetune.training import Training
    from foretune.kernels.formula import Formula
    from foretune.model.load import LanguageModel
    from foretune.model.outputs import Outputs

OUTPUTS = ("auto", "prompt", "head")
HEADS = ("probe", "random")
FORMULAS = ("sgd", "signgd", "asymmetric", "lora", "projection")
PROJECTIONS = ("intrinsic", "rademacher", "kronecker")
_MOST_LABELS = 100


@dataclass(frozen=True)
class Problem:
    """A task and its data."""

    task: Task
    split: Split
    rows: int


def listed(text: str) -> list[str]:
    """The items of a comma-separated option."""
    return [item.strip() for item in text.split(",") if item.strip()]


def one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    """`value`, if it is known.

    Raises:
        UsageError: it is not; the message names the nearest.
    """
    if value not in known:
        raise UsageError(f"{option} {value!r}: expected {', '.join(known)}.{nearest(value, known)}")
    return value


Splitter = Callable[[Task, DataOptions, Rows, Rows | None], Split]


def few_shot(task: Task, data: DataOptions, rows: Rows, test_rows: Rows | None) -> Split:
    """K examples per label for training, k others for validation."""
    return task.few_shot(rows, data.k, data.seed, data.test, test_rows)


def full_data(task: Task, data: DataOptions, rows: Rows, test_rows: Rows | None) -> Split:
    """All examples for training but those that validate or test."""
    examples = task.examples(rows)
    others = None if test_rows is None else task.examples(test_rows)
    task.targets([*examples, *(others or [])])
    return full_split(examples, task.labels, data.k, data.seed, data.test, others)


def problem(data: DataOptions, output: OutputOptions, splitter: Splitter = few_shot) -> Problem:
    """Read the rows and split them.

    Raises:
        UsageError, DataError: wrong options, or rows that cannot be used.
    """
    one_of("--output", output.output, OUTPUTS)
    one_of("--head", output.head, HEADS)
    for name, value in (("--k", data.k), ("--test", data.test)):
        if value < 1:
            raise UsageError(f"{name} is {value}; expected at least 1.")
    named = _named_task(data, output)
    rows, test_rows = load_data(data.data, named, data.data_split, data.data_revision)
    if data.test_data is not None:
        test_rows = load_rows(data.test_data, data.data_split, data.data_revision)
    task = _task(data, output, named, rows)
    for source in (rows, *([] if test_rows is None else [test_rows])):
        require_columns(source, [name for name in (task.text, task.text2, task.label) if name is not None])
    return Problem(task, splitter(task, data, rows, test_rows), len(rows))


def _named_task(data: DataOptions, output: OutputOptions) -> Task | None:
    """The task that an option or DATA itself names."""
    name = output.task
    if name is None and (data.data in TASKS or Path(data.data).suffix in (".yaml", ".yml")):
        name = data.data
    return None if name is None else load_task(name)


def _task(data: DataOptions, output: OutputOptions, named: Task | None, rows: Rows) -> Task:
    """The named task, or one made from the options and the labels found in the rows."""
    columns = {key: value for key in ("text", "text2", "label") if (value := getattr(data, key)) is not None}
    changes: dict[str, object] = {} if output.metric is None else {"metric": output.metric}
    if output.template is not None:
        changes |= {"template": output.template, "causal_template": None}
    if output.words is not None:
        changes["words"] = _words(output.words)
    if named is not None:
        named = named if output.prompt is None else named.prompted(output.prompt)
        labels = listed(data.labels) if data.labels else list(named.labels)
        changes.setdefault("words", {label: word for label, word in named.words.items() if label in labels})
        if labels != list(named.labels):
            changes["variants"] = {}  # their words are for the task's own labels
        return replace(named, labels=labels, **columns, **changes)
    if output.prompt is not None:
        raise UsageError("--prompt chooses among the prompts of a task: name one with --task, or write a --template.")
    label = columns.get("label", "label")
    require_columns(rows, [label])
    labels = listed(data.labels) if data.labels else _found_labels(rows, label)
    changes.setdefault(
        "template", "{text} {text2} This is {mask} ." if "text2" in columns else "{text} This is {mask} ."
    )
    return Task(name=data.data, labels=labels, **columns, **changes)  # pyright: ignore[reportArgumentType]


def _found_labels(rows: Rows, column: str) -> list[str]:
    labels = sorted({str(row[column]) for row in rows if row.get(column) is not None})
    if len(labels) < 2:
        raise DataError(
            f"Column {column!r} of {rows.source} has one label only ({', '.join(map(repr, labels))}). Expected at least "
            "two to tell apart."
        )
    if len(labels) > _MOST_LABELS:
        raise DataError(
            f"Column {column!r} of {rows.source} has {len(labels)} different values, {labels[0]!r} for example: that is "
            "no label. Name the label column with --label."
        )
    return labels


def _words(text: str) -> dict[str, str]:
    words = {}
    for item in listed(text):
        label, separator, word = item.partition("=")
        if not separator or not word.strip():
            raise UsageError(f"--words {item!r}: expected LABEL=WORD, as in negative=terrible,positive=great.")
        words[label.strip()] = word.strip()
    return words


def made_outputs(options: OutputOptions, seed: int, lm: LanguageModel, found: Problem) -> Outputs:
    """The model as a function, as the options ask for it.

    Raises:
        ModelError, DataError, UsageError: the model and the task do not fit.
    """
    from foretune.experiment.probed_head import probed_head
    from foretune.model.answer import AnswerLogits
    from foretune.model.head import HeadLogits

    task = found.task
    difference = options.difference and len(task.labels) == 2
    if options.output == "prompt" or (options.output == "auto" and lm.kind != "encoder"):
        return AnswerLogits(
            lm, task, difference=difference, max_length=options.max_length, first_piece=options.first_piece
        )
    _refuse_prompt_options(options, lm)
    pooling = ("last" if lm.left_to_right else "mean") if options.pooling is None else options.pooling
    longest = task.max_length if options.max_length is None else options.max_length
    if options.head == "probe":
        return probed_head(lm, task, found.split, pooling, difference=difference, max_length=longest)
    return HeadLogits(lm, len(task.labels), pooling, seed=seed, difference=difference, max_length=longest)


def _refuse_prompt_options(options: OutputOptions, lm: LanguageModel) -> None:
    """See that nothing was said of a prompt where a head answers.

    Raises:
        UsageError: an option of prompts was given.
    """
    given = {
        "--template": options.template,
        "--words": options.words,
        "--prompt": options.prompt,
        "--first-piece": options.first_piece or None,
    }
    named = next((name for name, value in given.items() if value is not None), None)
    if named is not None:
        why = f"{lm.name} has no words to answer with" if options.output == "auto" else "a head answers"
        raise UsageError(f"{named} is for prompts, but {why}, so it would have no effect. Leave {named} out.")


def chosen_blocks(options: BlockOptions, outputs: Outputs) -> list[str] | None:
    """The parameters that take part; None for all.

    Raises:
        UsageError: none is left.
    """
    from foretune.kernels.block_kernel import matching
    from foretune.model.parameters import ParameterFilter

    wanted = ParameterFilter(
        embeddings=not options.exclude_embeddings,
        head=not options.exclude_head,
        biases_only=options.biases_only,
        lora_only=options.lora_only,
        layers=None if options.layers is None else _numbers("--layers", options.layers),
    )
    if options.blocks is None and wanted == ParameterFilter():
        return None
    names = outputs.chosen(wanted)
    return names if options.blocks is None else [names[place] for place in matching(names, listed(options.blocks))]


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers of `0,4-7`."""
    found: list[int] = []
    for item in listed(text):
        first, separator, last = item.partition("-")
        if not first.isdigit() or (separator and not last.isdigit()):
            raise UsageError(f"{option} {text!r}: {item!r} is no number; expected numbers and ranges, such as 0,4-7.")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def made_formulas(options: FormulaOptions) -> list[Formula]:
    """The kernel formulas that the options name; the asymmetric one in both orientations.

    Raises:
        UsageError: an unknown formula, rank or projection.
    """
    from foretune.kernels.lora import LoRA
    from foretune.kernels.projection import IntrinsicDimension, Kronecker, Projection, Rademacher
    from foretune.kernels.sgd import SGD
    from foretune.kernels.signs import AsymmetricSignGD, SignGD

    targets = options.target_modules
    one_of("--init", options.init, ("kaiming", "gaussian"))
    kinds: dict[str, type[Projection]] = dict(
        zip(PROJECTIONS, (IntrinsicDimension, Rademacher, Kronecker), strict=True)
    )
    projected = kinds[one_of("--projection", options.projection, PROJECTIONS)]
    found: list[Formula] = []
    for name in listed(options.formula):
        one_of("--formula", name, FORMULAS)
        if name == "sgd":
            found.append(SGD())
        elif name == "signgd":
            found.append(SignGD(options.eps))
        elif name == "asymmetric":
            found += [AsymmetricSignGD(options.eps), AsymmetricSignGD(options.eps).reversed]
        elif name == "projection":
            found.append(projected(options.dimension, options.draw_seed))
        else:
            found += [
                LoRA(
                    rank,
                    options.alpha,
                    targets=targets if targets == "all-linear" else tuple(listed(targets)),
                    init=options.init,  # pyright: ignore[reportArgumentType]
                    rslora=options.rslora,
                    seed=options.draw_seed,
                )
                for rank in _numbers("--rank", options.rank)
            ]
    return found


def made_method(options: MethodOptions) -> Method:
    """The method of fine-tuning that the options name, with its layers and adapters.

    Raises:
        UsageError: an unknown method (the message names the nearest), or an option that it does not take.
    """
    from foretune.finetune.methods import FullTuning, Linearized, LoRATuning, ProbedFirst, method_named
    from foretune.model.parameters import ParameterFilter

    layers = None if options.layers is None else _numbers("--layers", options.layers)
    targets = options.target_modules

    def configured(method: Method) -> Method:
        if isinstance(method, ProbedFirst):
            probing = replace(method.probing, learning_rate=options.head_learning_rate)
            return ProbedFirst(configured(method.then), probing)
        if isinstance(method, Linearized):
            return Linearized(configured(method.of))
        if isinstance(method, FullTuning):
            return FullTuning(ParameterFilter(layers=layers))
        if isinstance(method, LoRATuning):
            return LoRATuning(
                options.rank,
                options.alpha,
                targets if targets == "all-linear" else tuple(listed(targets)),
                layers,
                options.init,  # pyright: ignore[reportArgumentType]
                options.rslora,
                options.draw_seed,
            )
        if layers is not None:
            raise UsageError(f"--layers chooses layers for ft and lora; --method {options.method} takes none.")
        return method

    return configured(method_named(options.method))


def made_training(options: TrainingOptions, method: Method) -> Training:
    """Optimiser, loss and settings; without a learning rate, the middle of the grid of Malladi et al. 2023, Table 3.

    Raises:
        UsageError: an unknown optimiser or loss, or a number out of range.
    """
    from foretune.finetune.losses import LOSSES
    from foretune.finetune.optimisers import OPTIMISERS
    from foretune.finetune.search import paper_grid
    from foretune.finetune.training import Proximal, Training

    kind = OPTIMISERS[one_of("--optimiser", options.optimiser, tuple(OPTIMISERS))]
    loss = LOSSES[one_of("--loss", options.loss, tuple(LOSSES))]
    rate = options.learning_rate
    if rate is None:
        rates = sorted({point.optimiser.learning_rate for point in paper_grid(method, kind())})
        rate = rates[len(rates) // 2]
    usual = Training()
    return Training(
        optimiser=kind(rate),
        loss=loss(),
        batch_size=usual.batch_size if options.batch_size is None else options.batch_size or None,
        micro_batches=options.micro_batches,
        steps=options.steps,
        epochs=options.epochs,
        evaluate_every=options.evaluate_every,
        best_by=options.best_by,  # pyright: ignore[reportArgumentType]
        proximal=None if options.proximal is None else Proximal(options.proximal),
        schedule=options.schedule,  # pyright: ignore[reportArgumentType]
        clip=options.clip,
        dropout=options.dropout,
        precision=options.precision,  # pyright: ignore[reportArgumentType]
        seed=options.training_seed,
    )
