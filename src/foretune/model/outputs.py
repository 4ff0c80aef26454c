r"""A language model as a function f(theta, batch) -> logits (n, c).

Two kinds share this interface: `AnswerLogits` (label words of a prompt) and `HeadLogits` (a linear classification
head). For two classes the difference form `f_1 - f_0` (c = 1) is the default: softmax and every kernel method need
only the difference, and a kernel of one output costs a quarter of one of two.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from foretune.errors import ModelError, UsageError
from foretune.model.bypassed import bypassed
from foretune.model.encoding import Accepted, Batch, Encoded, PlainEncoder, padded
from foretune.model.load import LanguageModel
from foretune.model.parameters import ParameterFilter, holds_outputs_in_columns, parameter_kind
from foretune.model.placement import refuse_packed, refuse_scattered
from foretune.model.sharing import shared_copy
from foretune.shapes import Float
from foretune.text.example import Example, as_examples

_TAKEN = {"input_ids", "attention_mask", "labels"}
"""Inputs that every batch has, or that a Trainer adds."""
_SAMPLE = "The film was good. The story of 2 sisters is slow, a dull plot!"


class Encoder(Protocol):
    """Turns an example into token ids."""

    limit: int
    accepted: Accepted

    def __call__(self, example: Example) -> Encoded:
        """The example as token ids."""
        ...


class Outputs:
    """What `AnswerLogits` and `HeadLogits` have in common.

    Attributes:
        lm: the language model; its own module is never changed.
        module: an `nn.Module` that maps a batch to logits (n, c), on the same weights, frozen, in evaluation mode.
        n_outputs: number of outputs, c.
        encode: turns an example into token ids.
        alone: whether padding changes values (`model.padding`); None as long as nobody has looked.
        lock: held while the module runs: it reads an example's place from a hook, so that threads take turns.
    """

    def __init__(self, lm: LanguageModel, module: Any, encode: Encoder, n_outputs: int, *, difference: bool) -> None:
        if difference and n_outputs != 2:
            raise UsageError(f"The difference form needs two outputs, this task has {n_outputs}. Use difference=False.")
        self.lm, self.module, self.encode = lm, module, encode
        self.alone: bool | None = None
        self._bypassed: frozenset[str] | None = None
        self.lock = threading.RLock()
        self.difference = difference
        self.n_classes = n_outputs
        self.n_outputs = 1 if difference else n_outputs

    def __getstate__(self) -> dict[str, object]:
        """Everything but the lock, for copies."""
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        """A copy has a lock of its own."""
        self.__dict__.update(state, lock=threading.RLock())

    def parameters(self) -> dict[str, Tensor]:
        """The trainable parameters by name (frozen ones of `lm.module` are left out); they share the model's memory."""
        frozen = {name for name, parameter in self.lm.module.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in self._named_tensors().items() if name not in frozen}

    def _named_tensors(self) -> dict[str, Tensor]:
        return {_outer(name): tensor for name, tensor in self.module.named_parameters()}

    def kinds(self) -> dict[str, str]:
        """What each trainable parameter is: `linear`, `bypassed`, `embedding`, `output` (layer), `bias` or `other`.

        A table that is also the weight of a layer is an embedding, whichever of the two its name comes from. The weight
        of a linear layer that an adapter cannot serve is `bypassed` (`model.bypassed`).
        """
        around = self.bypassed()
        return {name: "bypassed" if name in around else kind for name, kind in self._kinds().items()}

    def bypassed(self) -> frozenset[str]:
        """The weights of linear layers that an adapter cannot serve; the model runs once on a short text to tell.

        None of a model that cannot compute such a text.
        """
        with self.lock:
            if self._bypassed is None:
                linear = [name for name, kind in self._kinds().items() if kind == "linear"]
                inner = {_outer(name): name for name, _ in self.module.named_parameters()}
                try:
                    found = bypassed(self.module, [inner[name] for name in linear], self._tried) if linear else ()
                except ModelError:
                    found = ()
                self._bypassed = frozenset(_outer(name) for name in found)
            return self._bypassed

    @torch.inference_mode(False)
    def _tried(self) -> None:
        """Run the module on a short text."""
        plain = PlainEncoder(self.lm.tokenizer, self.encode.limit, self.encode.accepted)
        self.forward(self.collate([plain(Example(_SAMPLE))]))

    def _kinds(self) -> dict[str, str]:
        found: dict[int, set[str]] = defaultdict(set)
        for owner in self.module.modules():
            for attribute, tensor in owner.named_parameters(recurse=False):
                found[id(tensor)].add(parameter_kind(owner, attribute, self.module.output_layer))
        first = ("embedding", "output", "linear", "bias", "other")
        return {name: min(found[id(tensor)], key=first.index) for name, tensor in self.parameters().items()}

    def widths(self) -> dict[str, int]:
        """Output features of every linear layer, by the name of its weight."""
        tensors = self.parameters()
        return {name: int(tensors[name].shape[1 if turned else 0]) for name, turned in self.matrices().items()}

    def matrices(self) -> dict[str, bool]:
        """The weights of linear layers by name: whether they hold (inputs, outputs), as GPT-2's Conv1D does."""
        kinds = self._kinds()
        owners = {_outer(f"{path}.weight"): owner for path, owner in self.module.named_modules()}
        return {name: holds_outputs_in_columns(owners[name]) for name, kind in kinds.items() if kind == "linear"}

    def body(self) -> list[str]:
        """The trainable parameters of the transformer body: those outside of a language-model or classification head."""
        inside = {id(tensor) for tensor in self.module.body.parameters()}
        return [name for name, tensor in self.parameters().items() if id(tensor) in inside]

    def behind_body(self) -> list[str]:
        """All parameters, frozen ones too, that stand behind the transformer body: those of a head."""
        inside = {id(tensor) for tensor in self.module.body.parameters()}
        return [name for name, tensor in self._named_tensors().items() if id(tensor) not in inside]

    def chosen(self, wanted: ParameterFilter) -> list[str]:
        """The parameters that a filter leaves, for the `blocks` of a kernel.

        An output matrix that is also the embedding table belongs to the body: a filter without the head keeps it, with
        both of its uses, and a warning says so.

        Raises:
            UsageError: none is left.
        """
        names = wanted.names(self.kinds(), self.body())
        shared = [name for name, tensor in self.parameters().items() if tensor is self.module.output_layer.weight]
        if not wanted.head and shared and shared[0] in names:
            warnings.warn(
                f"The output layer of {self.lm.name} is its embedding table, {shared[0]!r}: without the head it stays, "
                "with both of its uses. Leave it out by --exclude-embeddings (embeddings=False).",
                stacklevel=2,
            )
        return names

    @property
    def description(self) -> dict[str, object]:
        """What determines the outputs besides the weights, for result files."""
        raise NotImplementedError

    def batch(self, rows: Any) -> Batch:
        """The rows, in any container, as one padded batch: `input_ids` and the like (n, t), `position` (n,)."""
        return self.collate([self.encode(example) for example in as_examples(rows)])

    def collate(self, encoded: Sequence[Encoded]) -> Batch:
        """Encoded rows as one padded batch."""
        return padded(encoded, self.lm.tokenizer, self.encode.accepted.rows, self.lm.device)

    def logits(self, params: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, "n c"]:
        """f(theta, batch) for the given parameters; those left out keep the model's own values."""
        inner = {_outer(name): name for name, _ in self.module.named_parameters()}
        unknown = set(params) - set(inner)
        if unknown:
            raise UsageError(f"Unknown parameters {sorted(unknown)[:3]}; see outputs.parameters().")
        given = {inner[name]: value for name, value in params.items()}
        with self._running(batch):
            parts = [torch.func.functional_call(self.module, given, (part,)) for part in self._parts(batch)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def forward(self, batch: Batch) -> Float[Tensor, "n c"]:
        """f(theta0, batch), on the very tensors of `parameters()`."""
        with self._running(batch):
            parts = [self.module(part) for part in self._parts(batch)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @contextmanager
    def _running(self, batch: Batch) -> Iterator[None]:
        """Let one thread run the module."""
        with refusing(self.lm.name, batch["input_ids"]), self.lock:
            yield

    def _parts(self, batch: Batch) -> list[Batch]:
        """The batch itself; its examples one by one and unpadded for a model that reads padding."""
        if not self.alone or len(batch["attention_mask"]) == 1:
            return [batch]
        lengths = batch["attention_mask"].sum(1).tolist()
        return [
            {
                key: value[row : row + 1, :length] if value.dim() > 1 else value[row : row + 1]
                for key, value in batch.items()
            }
            for row, length in enumerate(lengths)
        ]

    def logits_and_features(self, batch: Batch) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n i"]]:
        """f(theta0, batch) and the pretrained features that the output layer reads, without a graph."""
        with torch.no_grad():
            return self.forward_with_features(batch)

    def forward_with_features(self, batch: Batch) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n i"]]:
        """`forward`, and the pretrained features that the output layer reads; these without a graph."""
        with self._running(batch):
            parts = [self._with_features(part) for part in self._parts(batch)]
        logits, features = zip(*parts, strict=True)
        return (logits[0], features[0]) if len(parts) == 1 else (torch.cat(logits), torch.cat(features))

    def _with_features(self, batch: Batch) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n i"]]:
        read: list[Tensor] = []
        hidden: list[Tensor] = []
        handles = [
            self.module.output_layer.register_forward_pre_hook(lambda _, args: read.append(args[0])),
            self.module.body.register_forward_hook(lambda _, _args, out: hidden.append(out[0])),
        ]
        try:
            logits = self.module(batch)
        finally:
            for handle in handles:
                handle.remove()
        return logits, picked((read or hidden)[0].detach(), batch["position"])


def _outer(name: str) -> str:
    return name.removeprefix("model.")


@contextmanager
def refusing(name: str, ids: Tensor) -> Iterator[None]:
    """Let an error of a model's own code say for which input it came.

    Raises:
        ModelError: the model cannot compute this batch.
    """
    try:
        yield
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0].rstrip(".")
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in first:
            raise
        n, t = ids.shape
        raise ModelError(
            f"{name} cannot compute {n} {'example' if n == 1 else 'examples'} of {t} tokens: "
            f"{type(error).__name__}: {first}. transformers' code for it may not support this length or precision."
        ) from error


class LabelRows(nn.Module):
    """The rows of an output matrix that belong to the label words: (n, t, i) -> (n, t, w)."""

    weight: Tensor
    bias: Tensor | None
    ids: Tensor

    def __init__(self, layer: Any, ids: Sequence[int]) -> None:
        super().__init__()
        self.weight = layer.weight
        self.register_parameter("bias", getattr(layer, "bias", None))
        self.register_buffer("ids", torch.tensor(ids, device=layer.weight.device), persistent=False)

    def forward(self, x: Float[Tensor, "n t i"]) -> Float[Tensor, "n t w"]:
        """Logits of the label words."""
        bias = None if self.bias is None else self.bias.index_select(0, self.ids)
        return nn.functional.linear(x, self.weight.index_select(0, self.ids), bias)


@contextmanager
def reading_at(model: nn.Module, position: Tensor):  # noqa: ANN201 - a context manager
    """Let everything behind the transformer body see one position per example: (n, t, i) becomes (n, 1, i)."""

    def pick(_module: nn.Module, _args: tuple, output: Any) -> object:
        hidden = output[0]
        output[0 if isinstance(output, list) else "last_hidden_state"] = picked(hidden, position)[:, None]
        return output

    handle = model.register_forward_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def picked(tensor: Float[Tensor, "n t k"], position: Tensor) -> Float[Tensor, "n k"]:
    """One position per example, also where `reading_at` has picked it already (t = 1).

    Some models (OPT) call the inside of their body and so pass by its hook; they compute all positions.
    """
    if tensor.shape[1] == 1:
        return tensor[:, 0]
    return tensor[torch.arange(len(tensor), device=tensor.device), position]


def answering_copy(lm: LanguageModel) -> Any:
    """A copy of the model on the same weights, experts written as loops over plain linear layers.

    Raises:
        ModelError: its weights are not all on one device, or are packed so that they cannot be read.
    """
    refuse_scattered(lm.name, lm.module)
    refuse_packed(lm.name, lm.module)
    model: Any = shared_copy(lm.module)
    inner = base_of(model)
    if hasattr(inner, "set_experts_implementation"):
        inner.set_experts_implementation("eager")
    for part in model.modules():
        if hasattr(part, "gradient_checkpointing"):
            part.gradient_checkpointing = False
    return model


def base_of(model: Any) -> Any:
    """The transformers model inside of a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def body_of(model: Any) -> Any:
    """The transformer body of a transformers model: what stands before an output layer.

    Llama 4's language model names no such part of itself; its decoder is the body.
    """
    body = model.base_model
    return model.get_decoder() if body is model and model.get_output_embeddings() is not None else body


def accepted_by(model: Any) -> Accepted:
    """What the forward pass of a transformers model takes from a tokenizer, as a Trainer finds out.

    A table with one row of token types (RoBERTa) cannot tell texts apart: it gets none, also from a tokenizer that
    numbers them.
    """
    names = set(inspect.signature(model.forward).parameters) - _TAKEN
    if getattr(model.config, "type_vocab_size", 2) < 2:
        names.discard("token_type_ids")
    try:
        rows = len(model.get_input_embeddings().weight)
    except (AttributeError, NotImplementedError, TypeError):
        rows = None  # characters are hashed (CANINE)
    return Accepted(frozenset(names), rows)


def model_inputs(batch: Batch) -> Batch:
    """What of a batch goes into the model: all but the places that are read."""
    return {name: tensor for name, tensor in batch.items() if name != "position"}


def cache_off(model: nn.Module) -> dict[str, bool]:
    """The argument that keeps a decoder from building a key-value cache, for models that take it."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
