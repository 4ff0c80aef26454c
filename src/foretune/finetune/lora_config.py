"""LoRA adapters as a `peft.LoraConfig` that trains exactly the wanted modules, in every class that can be trained.

peft chooses modules by suffix, by suffix within numbered layers, by a regular expression over whole names, or by the
name of a parameter; and it changes or refuses some choices by the type of the model: names of mixture-of-experts
models stand for fused experts, and some modules of Mamba take no adapters. None of this is repeated here. peft is asked:
it adapts models without weights (`model.classes`), and what it would train there is compared with what is wanted.

Of the forms that are exact in all classes the shortest is taken; where there is none, one that is exact in the class
that comes first, which is the one that the forecast is about.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foretune.errors import UsageError
from foretune.model.bypassed import BYPASSED
from foretune.model.classes import CLASSIFIER, ModelClass, model_classes
from foretune.model.head import HeadLogits
from foretune.model.outputs import Outputs
from foretune.model.parameters import holds_outputs_in_columns
from foretune.naming import layer_number, layer_path

SEQUENCE_CLASSIFICATION, CAUSAL_LM = "SEQ_CLS", "CAUSAL_LM"
_EVERYWHERE: dict[str, Any] = {"layers_to_transform": None, "layers_pattern": None}


@dataclass(frozen=True)
class Answered:
    """What peft says of a config in one class.

    Attributes:
        adapted: modules that would have adapters.
        beside: other parameters that would be trained.
        refusal: peft's words where it refuses; empty otherwise.
    """

    adapted: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()
    refusal: str = ""


@dataclass(frozen=True)
class AdapterConfig:
    """Adapters for a model.

    Attributes:
        arguments: arguments of `peft.LoraConfig`, as its `adapter_config.json` holds them.
        trained: the class that they are for.
        also: other classes in which the arguments choose the same modules.
        elsewhere: classes in which they choose others, or are refused.
    """

    arguments: dict[str, Any]
    trained: str
    also: tuple[str, ...]
    elsewhere: tuple[str, ...]

    @property
    def classes(self) -> dict[str, Any]:
        """All that is said of classes of transformers."""
        return {"trained": self.trained, "also": self.also, "elsewhere": self.elsewhere}


def classes_for(outputs: Outputs) -> tuple[ModelClass, ...]:
    """The classes in which adapters may be trained, the one that comes first by what answers.

    Label words are answered by the loaded class; a classification head is trained by the class that has one.
    """
    found = model_classes(outputs.lm)
    first = CLASSIFIER if isinstance(outputs, HeadLogits) else None
    return tuple(sorted(found, key=lambda model: (model.name != first, not model.loaded)))


def lora_config(
    outputs: Outputs, classes: Sequence[ModelClass], blocks: Iterable[str], rank: int, alpha: float
) -> AdapterConfig:
    """The `AdapterConfig` of some blocks.

    Args:
        outputs: what answers: the type of the task depends on it.
        classes: `classes_for(outputs)`.
        blocks: adapted weights, such as `model.layers.3.mlp.up_proj.weight`.
        rank, alpha: of every adapter.

    Raises:
        UsageError: a block is not a weight of a module, or peft cannot train exactly these.
    """
    wanted, loaded = _modules(classes, blocks), _loaded(classes)
    complete = [model for model in classes if len(model.there(wanted, loaded)) == len(wanted)]
    others = [model for model in classes if model not in complete]
    chosen, trained = _chosen([*complete, *others], wanted), complete[0]
    if chosen.form is None and not trained.loaded:
        trained, complete = loaded, [loaded, *(model for model in complete if not model.loaded)]
        chosen = _chosen([*complete, *others], wanted)
    form = _form_of(chosen, trained, wanted)
    task_type = _task_type(outputs, trained)
    arguments = {
        "peft_type": "LORA",
        "task_type": task_type,
        "r": rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(holds_outputs_in_columns(loaded.module.get_submodule(name)) for name in wanted),
        **form,
    }
    if task_type == SEQUENCE_CLASSIFICATION:
        arguments |= _head_beside(trained, arguments)
    also = [model.name for model in complete[1:] if model.name in chosen.exact]
    elsewhere = [model.name for model in complete[1:] if model.name not in chosen.exact]
    return AdapterConfig(arguments, trained.name, tuple(also), tuple(elsewhere))


def exact_targets(classes: Sequence[ModelClass], blocks: Iterable[str]) -> dict[str, Any]:
    """The arguments of `peft.LoraConfig` that choose the modules of some blocks.

    Args:
        classes: in which they shall be exact; in the first they are.
        blocks: adapted weights.

    Raises:
        UsageError: a block is not a weight of a module, or peft cannot train exactly these.
    """
    names = list(blocks)
    wanted = _modules(classes, names)
    chosen = _chosen(classes, wanted)
    refused = {} if chosen.form is not None else refused_modules(classes, names)
    return _form_of(chosen, classes[0], wanted, refused)


def refused_modules(classes: Sequence[ModelClass], blocks: Iterable[str]) -> dict[str, str]:
    """The last names of modules to which peft gives no adapters -> its words; empty where it takes all.

    Args:
        classes: `classes_for(outputs)`; the first is asked.
        blocks: weights of linear layers.

    Raises:
        UsageError: a block is not a weight of a module.
    """
    loaded = _loaded(classes)
    asked = [classes[0]] if classes[0].loaded else [classes[0], loaded]
    there = set(classes[0].there(_modules(classes, blocks), loaded))
    if not there or _chosen(asked, there).form is not None:
        return {}
    groups: dict[str, set[str]] = defaultdict(set)
    for name in there:
        groups[name.rpartition(".")[2]].add(name)
    said = {last: _chosen(asked, names) for last, names in sorted(groups.items())}
    return {last: found.complaint for last, found in said.items() if found.form is None}


@dataclass(frozen=True)
class Adaptable:
    """What LoRA can adapt in a model.

    Attributes:
        classes: `classes_for(outputs)`; empty where nothing can be adapted.
        targets: targets of `ft.LoRA`: "all-linear", or the last names of the modules that peft takes; none where it
            takes none.
        notes: what is left out and why, for readers.
    """

    classes: tuple[ModelClass, ...]
    targets: str | tuple[str, ...]
    notes: tuple[str, ...]


def adaptable(outputs: Outputs, kinds: Mapping[str, str]) -> Adaptable:
    """What LoRA can adapt, and why not more.

    Args:
        outputs: the model as a function.
        kinds: parameters that take part -> what they are, `job.kinds`.
    """
    if any("lora_" in name for name in outputs.parameters()):
        return Adaptable((), (), ("LoRA is not among the candidates: the model has adapters already.",))
    linear, told = [name for name, kind in kinds.items() if kind == "linear"], bypassed_notes(kinds)
    if not linear:
        none = "LoRA is not among the candidates: no weight of a linear layer that an adapter serves takes part."
        return Adaptable((), (), (none, *told))
    classes = classes_for(outputs)
    refused = refused_modules(classes, linear)
    if not refused:
        return Adaptable(classes, "all-linear", told)
    left = {name.removesuffix(".weight").rpartition(".")[2] for name in linear} - set(refused)
    said = "; ".join(refused.values())
    note = f"LoRA candidates, including all linear layers, leave out {', '.join(refused)}. peft says: {said}."
    return Adaptable(classes, tuple(sorted(left)), (note, *told))


def bypassed_notes(kinds: Mapping[str, str]) -> tuple[str, ...]:
    """A note that names the linear layers that no adapter serves; none where there are none."""
    around = [name for name, kind in kinds.items() if kind == "bypassed"]
    if not around:
        return ()
    lasts = {name.removesuffix(".weight").rpartition(".")[2] for name in around}
    return (f"LoRA leaves out {_some(lasts, 6)}, {around[0]} for example: {BYPASSED}.",)


@dataclass(frozen=True)
class _Choice:
    """A form and the classes in which it is exact; without one what peft said of the last."""

    form: dict[str, Any] | None
    exact: frozenset[str]
    complaint: str


def _modules(classes: Sequence[ModelClass], blocks: Iterable[str]) -> set[str]:
    """The modules of some weights, by their paths in the loaded class."""
    wanted = {block.removesuffix(".weight") for block in blocks}
    unknown = sorted(wanted - _loaded(classes).modules())
    if unknown or not wanted:
        raise UsageError(
            f"No module {', '.join(unknown[:3]) or '(no blocks given)'} in this model; expected names of weights that "
            "belong to its modules."
        )
    return wanted


def _loaded(classes: Sequence[ModelClass]) -> ModelClass:
    return next(model for model in classes if model.loaded)


def _task_type(outputs: Outputs, trained: ModelClass) -> str | None:
    if isinstance(outputs, HeadLogits):
        return SEQUENCE_CLASSIFICATION if trained.name == CLASSIFIER else None
    return (
        CAUSAL_LM if outputs.lm.kind == "causal" and hasattr(trained.module, "prepare_inputs_for_generation") else None
    )


def _form_of(
    chosen: _Choice, trained: ModelClass, wanted: set[str], refused: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The chosen form.

    Raises:
        UsageError: there is none.
    """
    if chosen.form is not None:
        return chosen.form
    left = sorted({name.rpartition(".")[2] for name in wanted} - set(refused or ()))
    hint = f"Leave them out: --target-modules {','.join(left)}." if refused and left else "Choose other modules."
    said = "; ".join(refused.values()) if refused else chosen.complaint
    raise UsageError(
        f"peft does not adapt exactly these {len(wanted)} modules of {trained.name}, {_some(wanted)}: {said}. {hint}"
    )


def _chosen(classes: Sequence[ModelClass], wanted: set[str]) -> _Choice:
    """The first form that is exact in all classes that have some of the modules, or in the first and most others."""
    loaded, best, complaint = _loaded(classes), _Choice(None, frozenset(), ""), ""
    places = [(model, frozenset(model.there(wanted, loaded).values())) for model in classes]
    places = [(model, here) for model, here in places if here]
    for form in _forms(wanted, loaded):
        first = answered(places[0][0], form)
        if first.adapted != places[0][1]:
            complaint = first.refusal or _difference(places[0][1], first.adapted)
            continue
        exact = [
            places[0][0].name,
            *(model.name for model, here in places[1:] if answered(model, form).adapted == here),
        ]
        if len(exact) > len(best.exact):
            best = _Choice(form, frozenset(exact), "")
        if len(exact) == len(places):
            break
    return best if best.form is not None else _Choice(None, frozenset(), complaint)


def answered(model: ModelClass, arguments: Mapping[str, Any]) -> Answered:
    """What peft would train in a model with these arguments of `LoraConfig`."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever it warns of is seen in what it adapts
        try:
            made: Any = peft.get_peft_model(
                copy.deepcopy(model.module),
                peft.LoraConfig(**copy.deepcopy(dict(arguments))),
                low_cpu_mem_usage=True,
            )
        except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            return Answered(refusal=(str(error) or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip("."))
    trained = [name for name, tensor in made.get_base_model().named_parameters() if tensor.requires_grad]
    inside = {name.partition(".lora_")[0].removesuffix(".base_layer") for name in trained if ".lora_" in name}
    return Answered(frozenset(inside), frozenset(name for name in trained if ".lora_" not in name))


def _head_beside(model: ModelClass, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`modules_to_save`, where peft would leave a part of the head behind the body as it was drawn."""
    plain, behind = answered(model, arguments), model.behind_body()
    parts = sorted({name.partition(".")[0] for name in behind if not _saved(name, plain.beside)})
    wider = answered(model, {**arguments, "modules_to_save": parts}) if parts else plain
    strangers = [name for name in wider.beside if not any(_saved(of_head, [name]) for of_head in behind)]
    return {"modules_to_save": parts} if parts and wider.adapted == plain.adapted and not strangers else {}


def _saved(name: str, trained: Iterable[str]) -> bool:
    """Whether peft trains a copy of a parameter: `a.modules_to_save.default.b` is that of `a.b`."""
    return any(re.sub(r"\.modules_to_save\.[^.]+", "", other) == name for other in trained)


def _forms(wanted: set[str], loaded: ModelClass) -> Iterator[dict[str, Any]]:
    """Ways to say which modules, the shortest first."""
    paths = {name: layer_path(f"{name}.weight") for name in wanted}
    within = {name: name if path is None else name[len(path) + 1 :] for name, path in paths.items()}
    lists = {path.rpartition(".")[0].rpartition(".")[2] for path in paths.values() if path is not None}
    suffixes = [sorted({name.rpartition(".")[2] for name in wanted}), sorted(set(within.values()))]
    layers = [_EVERYWHERE]
    if len(lists) == 1 and None not in paths.values():
        numbers = sorted({layer_number(path) for path in paths.values() if path is not None})
        layers.append({"layers_to_transform": numbers, "layers_pattern": lists.pop()})
    for chosen in layers:
        for targets in suffixes:
            yield {"target_modules": targets, **chosen}
    names = {loaded.inside(name) or name for name in wanted}
    yield {"target_modules": _expression(names), **_EVERYWHERE}
    yield {"target_modules": sorted(names), **_EVERYWHERE}
    experts = {name for name in names if _stands_for_experts(loaded, name)}
    if experts:  # peft reads such a name as that of fused experts: the weight itself is named
        weights = sorted(f"{name}.weight" for name in experts)
        yield {"target_modules": sorted(names - experts), "target_parameters": weights, **_EVERYWHERE}


def _stands_for_experts(model: ModelClass, name: str) -> bool:
    """Whether peft takes the name of a module of a mixture-of-experts model for something else."""
    import peft
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = peft.LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(config, model.module, None)
    except ValueError:  # one of two fused projections
        return True
    return set(config.target_modules or ()) != {name}


def _expression(names: Iterable[str]) -> str:
    """A regular expression that the wanted paths match, whatever stands before them, and no others of the model."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    plain = []
    for name in sorted(names):
        path = layer_path(f"{name}.weight")
        if path is None:
            plain.append(re.escape(name))
        else:
            groups[path.rpartition(".")[0], name[len(path) + 1 :]].append(layer_number(path))
    numbered = [
        f"{re.escape(before)}\\.({'|'.join(map(str, sorted(numbers)))})\\.{re.escape(after)}"
        for (before, after), numbers in sorted(groups.items())
    ]
    every = [*numbered, *plain]
    return f"(?:.*\\.)?{every[0]}" if len(every) == 1 else f"(?:.*\\.)?(?:{'|'.join(every)})"


def _difference(wanted: frozenset[str], adapted: frozenset[str]) -> str:
    parts = [
        f"{words} {_some(names)}"
        for words, names in (("it leaves out", wanted - adapted), ("it adds", adapted - wanted))
        if names
    ]
    return " and ".join(parts)


def _some(names: Iterable[str], count: int = 3) -> str:
    every = sorted(names)
    return ", ".join(every[:count]) + (f" and {len(every) - count} more" if len(every) > count else "")
