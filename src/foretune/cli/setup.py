"""From options to objects: parameters, formulas, methods and training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from foretune.cli.fields import filled
from foretune.cli.options import BlockOptions, FormulaOptions
from foretune.cli.ranges import listed
from foretune.cli.tuning_options import MethodOptions, TrainingOptions
from foretune.model.parameters import ParameterFilter

if TYPE_CHECKING:
    from foretune.finetune.methods import Method
    from foretune.finetune.training import Training
    from foretune.kernels.formula import Formula
    from foretune.model.outputs import Outputs


def chosen_blocks(options: BlockOptions, outputs: Outputs) -> list[str] | None:
    """The parameters that take part; None for all.

    Raises:
        UsageError: none is left.
    """
    from foretune.kernels.block_kernel import matching

    wanted = filled(ParameterFilter, options, embeddings=not options.exclude_embeddings, head=not options.exclude_head)
    if options.blocks is None and wanted == ParameterFilter():
        return None
    names = outputs.chosen(wanted)
    return names if options.blocks is None else [names[at] for at in matching(names, listed(options, "blocks"))]


def made_formulas(options: FormulaOptions) -> list[Formula]:
    """The kernel formulas that the options name; the asymmetric one in both orientations.

    Raises:
        UsageError: an unknown formula, rank or projection.
    """
    from foretune.kernels.lora import LoRA
    from foretune.kernels.projection import IntrinsicDimension, Kronecker, Rademacher
    from foretune.kernels.sgd import SGD
    from foretune.kernels.signs import AsymmetricSignGD, SignGD

    projected = {"intrinsic": IntrinsicDimension, "rademacher": Rademacher, "kronecker": Kronecker}
    source = AsymmetricSignGD(options.eps, options.threshold)
    made: dict[str, Callable[[], list[Formula]]] = {
        "sgd": lambda: [SGD()],
        "signgd": lambda: [SignGD(options.eps, options.threshold)],
        "asymmetric": lambda: [source, source.reversed],
        "projection": lambda: [projected[options.projection](options.dimension, options.draw_seed)],
        "lora": lambda: [filled(LoRA, options, rank=rank, seed=options.draw_seed) for rank in listed(options, "rank")],
    }
    return [formula for name in listed(options, "formula") for formula in made[name]()]


def made_method(options: MethodOptions) -> Method:
    """The method of fine-tuning that the options name, with its layers and adapters.

    Raises:
        UsageError: an unknown method; the message names the nearest.
    """
    from foretune.finetune.methods import (
        BlockTuning,
        FrozenHead,
        FullTuning,
        Linearized,
        LoRATuning,
        ProbedFirst,
        method_named,
    )

    def configured(method: Method) -> Method:
        if isinstance(method, ProbedFirst):
            probing = replace(method.probing, learning_rate=options.head_learning_rate)
            return ProbedFirst(configured(method.then), probing)
        if isinstance(method, Linearized):
            return Linearized(configured(method.of))
        found = trained(method)
        return FrozenHead(found) if options.exclude_head else found

    def trained(method: Method) -> Method:
        if isinstance(method, FullTuning):
            if options.parameters is not None:
                return BlockTuning(listed(options, "parameters"))
            return FullTuning(filled(ParameterFilter, options, head=not options.exclude_head))
        return filled(LoRATuning, options) if isinstance(method, LoRATuning) else method

    return configured(method_named(options.method))


def made_training(options: TrainingOptions, method: Method) -> Training:
    """Optimiser, loss and settings; without a learning rate, the middle of the grid of Malladi et al. 2023, Table 3.

    Raises:
        UsageError: an unknown optimiser or loss, or a number out of range.
    """
    from foretune.finetune.losses import LOSSES
    from foretune.finetune.optimisers import OPTIMISERS
    from foretune.finetune.search import paper_grid
    from foretune.finetune.trackers import NONE
    from foretune.finetune.training import Proximal, Training

    kind, rate = OPTIMISERS[options.optimiser], options.learning_rate
    if rate is None:
        rates = sorted({point.optimiser.learning_rate for point in paper_grid(method, kind())})
        rate = rates[len(rates) // 2]
    return filled(
        Training,
        options,
        optimiser=kind(rate),
        loss=LOSSES[options.loss](),
        batch_size=Training.batch_size if options.batch_size is None else options.batch_size or None,
        proximal=None if options.proximal is None else Proximal(options.proximal),
        report_to=tuple(name for name in listed(options, "report_to") if name != NONE),
    )
