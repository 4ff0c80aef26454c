"""From options to objects: parameters, formulas, methods and training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from foretune.cli.options import BlockOptions, FormulaOptions
from foretune.cli.ranges import items, numbers, one_of
from foretune.cli.tuning_options import MethodOptions, TrainingOptions
from foretune.errors import UsageError

if TYPE_CHECKING:
    from foretune.finetune.methods import Method
    from foretune.finetune.training import Training
    from foretune.kernels.formula import Formula
    from foretune.model.outputs import Outputs

PROJECTIONS = ("intrinsic", "rademacher", "kronecker")


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
        layers=None if options.layers is None else numbers("--layers", options.layers, "0,4-7"),
    )
    if options.blocks is None and wanted == ParameterFilter():
        return None
    names = outputs.chosen(wanted)
    return (
        names
        if options.blocks is None
        else [names[place] for place in matching(names, items("--blocks", options.blocks, "*.query.*"))]
    )


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
    kinds: dict[str, type[Projection]] = dict(
        zip(PROJECTIONS, (IntrinsicDimension, Rademacher, Kronecker), strict=True)
    )
    projected = kinds[options.projection]
    found: list[Formula] = []
    for name in items("--formula", options.formula, "sgd,lora"):
        if name == "sgd":
            found.append(SGD())
        elif name == "signgd":
            found.append(SignGD(options.eps, options.threshold))
        elif name == "asymmetric":
            source = AsymmetricSignGD(options.eps, options.threshold)
            found += [source, source.reversed]
        elif name == "projection":
            found.append(projected(options.dimension, options.draw_seed))
        else:
            found += [
                LoRA(
                    rank,
                    options.alpha,
                    targets=targets
                    if targets == "all-linear"
                    else tuple(items("--target-modules", targets, "q_proj,v_proj")),
                    init=options.init,  # pyright: ignore[reportArgumentType]
                    rslora=options.rslora,
                    seed=options.draw_seed,
                )
                for rank in numbers("--rank", options.rank, "1,8,64")
            ]
    return found


def made_method(options: MethodOptions) -> Method:
    """The method of fine-tuning that the options name, with its layers and adapters.

    Raises:
        UsageError: an unknown method (the message names the nearest), or an option that it does not take.
    """
    from foretune.finetune.methods import FullTuning, Linearized, LoRATuning, ProbedFirst, method_named
    from foretune.model.parameters import ParameterFilter

    layers = None if options.layers is None else numbers("--layers", options.layers, "0,4-7")
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
                targets if targets == "all-linear" else tuple(items("--target-modules", targets, "q_proj,v_proj")),
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
