"""Methods of fine-tuning: which parameters move, from where, and whether the model is its own linearization.

Every method but `FrozenHead` trains the head of a model that has one (`ft.HeadLogits`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from foretune.errors import UsageError, nearest
from foretune.finetune.adapters import adapted
from foretune.finetune.copies import copy_with_own, head_names, outputs_on
from foretune.finetune.optimisers import AdamWOptimiser, Optimiser
from foretune.kernels.adapter import Initialisation
from foretune.kernels.lora import LoRA
from foretune.model.head import HeadLogits
from foretune.model.outputs import Outputs
from foretune.model.parameters import ParameterFilter


@dataclass(frozen=True)
class Method:
    """What is trained."""

    label: ClassVar[str] = ""

    def start(self, outputs: Outputs) -> Outputs:
        """The same function on a model of its own, ready to be trained; the user's model keeps its weights.

        Raises:
            UsageError: nothing would be trained.
        """
        return outputs_on(copy_with_own(outputs.lm, self.names(outputs)), outputs)

    def names(self, outputs: Outputs) -> list[str]:
        """The parameters of `start(outputs)` that are trained.

        Raises:
            UsageError: there is none.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class FullTuning(Method):
    """Full fine-tuning, or that of some parameters.

    Attributes:
        parameters: which of the model's parameters; all by default.
    """

    parameters: ParameterFilter = field(default_factory=ParameterFilter)
    label: ClassVar[str] = "ft"

    def names(self, outputs: Outputs) -> list[str]:
        """The chosen parameters that the outputs depend on, and the head."""
        chosen = [*outputs.chosen(self.parameters), *head_names(outputs)]
        if isinstance(outputs, HeadLogits):  # the output layer over the vocabulary stands by, unused
            used = {*outputs.body(), *head_names(outputs)}
            chosen = [name for name in chosen if name in used]
        return list(dict.fromkeys(chosen))


@dataclass(frozen=True)
class BlockTuning(Method):
    """Full fine-tuning of some parameters by name, and of the head.

    Attributes:
        blocks: names of the parameters.
    """

    blocks: tuple[str, ...] = ()
    label: ClassVar[str] = "ft"

    def names(self, outputs: Outputs) -> list[str]:
        """The blocks in the model's order, and the head.

        Raises:
            UsageError: the model has no parameter of one of these names.
        """
        known = outputs.parameters()
        if unknown := [name for name in self.blocks if name not in known]:
            raise UsageError(
                f"{outputs.lm.name} has no trainable parameter {unknown[0]!r}.{nearest(unknown[0], known)} See "
                "outputs.parameters()."
            )
        return list(dict.fromkeys([*(name for name in known if name in set(self.blocks)), *head_names(outputs)]))


@dataclass(frozen=True)
class BitFit(Method):
    """Biases only (Ben Zaken et al. 2022, BitFit)."""

    label: ClassVar[str] = "bitfit"

    def names(self, outputs: Outputs) -> list[str]:
        """The biases, and the head.

        Raises:
            UsageError: the model has no biases.
        """
        kinds = outputs.kinds()
        if not any(kinds[name] == "bias" for name in outputs.body()):
            raise UsageError(f"{outputs.lm.name} has no biases to train. Choose another method: lora, or ft.")
        return FullTuning(ParameterFilter(biases_only=True)).names(outputs)


@dataclass(frozen=True)
class FrozenHead(Method):
    """Another method, with a head that stays as it starts.

    Attributes:
        of: the method that says what else is trained.
    """

    of: Method = field(default_factory=FullTuning)

    @property
    def label(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the method inside."""
        return self.of.label

    def start(self, outputs: Outputs) -> Outputs:
        """As the method inside."""
        return self.of.start(outputs)

    def names(self, outputs: Outputs) -> list[str]:
        """As the method inside, without the head.

        Raises:
            UsageError: nothing is left.
        """
        head = set(head_names(outputs))
        left = [name for name in self.of.names(outputs) if name not in head]
        if not left:
            raise UsageError(
                "Only the head would be trained, and --exclude-head leaves it out. Leave --exclude-head out, or choose "
                "more to train."
            )
        return left


@dataclass(frozen=True)
class LinearProbing(Method):
    """The classification head on fixed features."""

    label: ClassVar[str] = "lp"

    def names(self, outputs: Outputs) -> list[str]:
        """The head.

        Raises:
            UsageError: the model answers with words.
        """
        names = head_names(outputs)
        if not names:
            raise UsageError(
                "Linear probing trains a classification head, but here label words answer a prompt. Use ft.HeadLogits "
                "(--output head), or another method."
            )
        return names


@dataclass(frozen=True)
class LoRATuning(Method):
    """Low-rank adapters by peft; A starts as in the kernel `ft.LoRA` with the same arguments, B = 0.

    Attributes:
        rank, alpha, targets, init, rslora, seed: as in `ft.LoRA`.
        layers: only these layers, by number.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: str | tuple[str, ...] = "all-linear"
    layers: tuple[int, ...] | None = None
    init: Initialisation = "kaiming"
    rslora: bool = False
    seed: int = 0
    label: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        _ = self.formula  # refuses what is out of range

    @property
    def formula(self) -> LoRA:
        """The kernel of these adapters at their start."""
        return LoRA(self.rank, self.alpha, self.targets, self.init, self.rslora, self.seed)

    def start(self, outputs: Outputs) -> Outputs:
        """The outputs on a model with adapters that do nothing yet.

        Raises:
            UsageError: no linear layer matches, or the model has adapters already.
        """
        return outputs_on(adapted(outputs, self.formula, self.layers), outputs)

    def names(self, outputs: Outputs) -> list[str]:
        """The adapters, and the head."""
        return [*(name for name in outputs.parameters() if "lora_" in name), *head_names(outputs)]


@dataclass(frozen=True)
class LoRAAndHead(LoRATuning):
    """Adapters, and what stands behind the transformer body: the head of a language model.

    As the published code of Malladi et al. 2023 trains LoRA: it freezes the body alone. An output layer that is tied to the
    embeddings belongs to the body and stays as it is.
    """

    def start(self, outputs: Outputs) -> Outputs:
        """As without the head, whose parameters get memory of their own."""
        adapters = super().start(outputs)
        head = set(adapters.behind_body())
        for name, parameter in adapters.lm.module.named_parameters():
            if name in head:
                parameter.data = parameter.data.clone()
                parameter.requires_grad_()
        return outputs_on(adapters.lm, adapters)

    def names(self, outputs: Outputs) -> list[str]:
        """The adapters, and every parameter that the outputs depend on outside of the body."""
        head = [] if isinstance(outputs, HeadLogits) else outputs.behind_body()
        return list(dict.fromkeys([*super().names(outputs), *head]))


@dataclass(frozen=True)
class Linearized(Method):
    """The first-order Taylor model `f(theta0) + <df(theta0), theta - theta0>`, trained by gradient descent.

    Exact, for any loss: values by Jacobian-vector products, gradients by vector-Jacobian products, both at theta0
    (Malladi et al. 2023, Definition 2.2; Afzal et al., Linearization Explains Fine-Tuning in Large Language Models).

    Attributes:
        of: the method that says which parameters move.
    """

    of: Method = field(default_factory=FullTuning)
    label: ClassVar[str] = "linearized"

    def __post_init__(self) -> None:
        if isinstance(self.of, Linearized | ProbedFirst):
            raise UsageError(f"{type(self.of).__name__} cannot be linearized. Expected ft, lora, bitfit or lp.")

    def start(self, outputs: Outputs) -> Outputs:
        """As the method inside."""
        return self.of.start(outputs)

    def names(self, outputs: Outputs) -> list[str]:
        """As the method inside."""
        return self.of.names(outputs)


@dataclass(frozen=True)
class ProbedFirst(Method):
    """Linear probing, then another method from there: LP-FT, LP-LoRA (Kumar et al. 2022; Tomihari & Sato 2024).

    Attributes:
        then: the second stage.
        probing: the optimiser of the first; its other settings are those of the second.
    """

    then: Method = field(default_factory=FullTuning)
    probing: Optimiser = field(default_factory=lambda: AdamWOptimiser(1e-3))

    @property
    def label(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Both stages."""
        return f"{LinearProbing.label}-{self.then.label}"

    def __post_init__(self) -> None:
        if isinstance(self.then, ProbedFirst):
            raise UsageError(
                "Linear probing is the first stage; expected ft, lora, bitfit or linearized as the second."
            )

    def start(self, outputs: Outputs) -> Outputs:
        """As the second stage."""
        return self.then.start(outputs)

    def names(self, outputs: Outputs) -> list[str]:
        """Those of the second stage."""
        return self.then.names(outputs)


METHODS: Mapping[str, Method] = {
    method.label: method
    for method in (
        FullTuning(),
        LoRATuning(),
        LinearProbing(),
        ProbedFirst(FullTuning()),
        ProbedFirst(LoRATuning()),
        BitFit(),
        Linearized(),
    )
}


def method_named(name: str) -> Method:
    """A method of `METHODS`.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in METHODS:
        raise UsageError(f"Unknown method {name!r}. Expected one of {', '.join(METHODS)}.{nearest(name, METHODS)}")
    return METHODS[name]
