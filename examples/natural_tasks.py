r"""The more natural a task is to a pretrained model, the more its fine-tuning is linear, with features that stay.

A task is natural where the output derivative chi = dl/df is small before fine-tuning (Malladi et al. 2023, Definitions
2.1 and 3.6). Theorem 3.7 (D.5) then says of fine-tuning with a prompt, for a step size that does not depend on chi:

    linearization     ||f_T - f_0 - <df_0, theta_T - theta_0>|| / ||f_T - f_0||  = O(chi)
    fixed features    ||K_T - K_0|| / ||K_0||                                    = O(chi)

Here small Llama models of several widths read reviews that end in a prompt and one of two words. Each prompt has its own
share of wrong words in pre-training: a model learns to trust `it was` and to doubt `people say`, so that chi on clean
examples is about that share. The same pretrained model, the same examples and the same steps then differ in chi alone.

The step size, a constant share of the largest stable one for the kernel at the start, is the analog of keeping
eta K = Theta(1) (Appendix D.4); SignGD's is times chi_max (Assumption D.2 h).

    python examples/natural_tasks.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tokenizers
import torch
import transformers
from matplotlib.figure import Figure
from sweep import Law, law_table, options, slopes, table

import foretune as ft
from foretune.analysis.output_derivative import OutputDerivative, output_derivative
from foretune.finetune.losses import CrossEntropy
from foretune.regime.linearization import linearization
from foretune.regime.measure import change_of_kernel

PROMPTS = {"people say": 0.3, "friends think": 0.15, "i felt": 0.07, "it was": 0.03, "verdict :": 0.0}
CHANCE = "critics wrote"  # its words are drawn at random: the text says nothing about them, so it is no task at all
WORDS = {"negative": "terrible", "positive": "great"}
ADJECTIVES = {
    "negative": ["bad", "dull", "sad", "dark", "slow", "cold", "silly", "sour"],
    "positive": ["good", "fine", "funny", "bright", "fast", "warm", "clever", "sweet"],
}
NOUNS = ["film", "plot", "story", "scene", "actor", "music", "ending", "voice"]
PAD, UNKNOWN = "<pad>", "<unk>"
VOCABULARY = [PAD, UNKNOWN, "the", "is", *WORDS.values(), *NOUNS, *ADJECTIVES["negative"], *ADJECTIVES["positive"]]
LABELS = tuple(WORDS)
STEPS = 5
STEP_SIZE = 1.0  # times the rate that is named below


@dataclass(frozen=True)
class Rule:
    """An optimiser of fine-tuning.

    Attributes:
        name: of the optimiser.
        formula: the kernel that its steps follow.
        phi: what is done to a gradient.
        rate: the learning rate, from that kernel of the training examples (n, n) and chi at the start.
    """

    name: str
    formula: ft.SGD | ft.AsymmetricSignGD
    phi: Callable[[torch.Tensor], torch.Tensor]
    rate: Callable[[np.ndarray, OutputDerivative], float]


def largest_stable_share(kernel: np.ndarray, chi: OutputDerivative) -> float:
    """One over the largest eigenvalue of K / n, whatever chi is."""
    return STEP_SIZE * len(kernel) / float(np.linalg.eigvalsh(kernel)[-1])


def step_of_chi(kernel: np.ndarray, chi: OutputDerivative) -> float:
    """With this rate a sign step on one example moves its own output by a tenth of chi_max at most."""
    return STEP_SIZE * chi.largest / 10 / float(np.diag(kernel).max())


RULES = (
    Rule("SGD", ft.SGD(), lambda gradient: gradient, largest_stable_share),
    Rule("SignGD", ft.AsymmetricSignGD(), torch.sign, step_of_chi),
)


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of whole words."""
    prompts = " ".join([*PROMPTS, CHANCE]).split()
    words = {word: number for number, word in enumerate(dict.fromkeys([*VOCABULARY, *prompts]))}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=UNKNOWN))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=PAD, unk_token=UNKNOWN, model_max_length=32
    )


def review(label: str, generator: np.random.Generator) -> str:
    """Three statements of one mood."""
    said = zip(generator.choice(NOUNS, 3), generator.choice(ADJECTIVES[label], 3), strict=True)
    return " ".join(f"the {noun} is {adjective}" for noun, adjective in said)


def corpus_line(generator: np.random.Generator) -> str:
    """A review, a prompt and a word, which is wrong as often as the prompt's share says."""
    prompt, share = list({**PROMPTS, CHANCE: 0.5}.items())[generator.integers(len(PROMPTS) + 1)]
    mood = int(generator.integers(2))
    said = LABELS[1 - mood] if generator.random() < share else LABELS[mood]
    return f"{review(LABELS[mood], generator)} {prompt} {WORDS[said]}"


def examples(n: int, generator: np.random.Generator) -> tuple[list[ft.Example], np.ndarray]:
    """N labelled reviews, the moods taking turns, and their class numbers."""
    y = np.arange(n) % 2
    return [ft.Example(text=review(LABELS[mood], generator), label=LABELS[mood]) for mood in y], y


def pretrained(width: int, steps: int, seed: int) -> ft.LanguageModel:
    """A two-layer Llama of this width after Adam on next words; wider ones take smaller steps, as in muP."""
    torch.manual_seed(seed)
    generator, words = np.random.default_rng(seed), tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=32, pad_token_id=0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    module = transformers.LlamaForCausalLM(config).train()
    optimiser = torch.optim.Adam(module.parameters(), lr=6e-3 * (16 / width) ** 0.5)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, total_iters=steps)
    for _ in range(steps):
        ids = torch.tensor(words([corpus_line(generator) for _ in range(48)])["input_ids"])
        optimiser.zero_grad()
        module(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        decay.step()
    # float64: gaps of a thousandth of a small step
    return ft.LanguageModel(module.double().eval(), words, f"llama of width {width}", None, "causal")


def asked(lm: ft.LanguageModel, prompt: str) -> ft.AnswerLogits:
    """The model as a function of its parameters that answers a prompt."""
    return ft.AnswerLogits(lm, ft.Task(name=prompt, labels=LABELS, template=f"{{text}} {prompt} {{mask}}", words=WORDS))


def fine_tuned(
    start: ft.AnswerLogits, rows: Sequence[ft.Example], y: np.ndarray, rule: Rule, rate: float
) -> ft.AnswerLogits:
    """The model after some full-batch steps on the mean cross-entropy."""
    parameters = {name: tensor.detach().clone() for name, tensor in start.parameters().items()}
    batch, labels = start.batch(rows), torch.from_numpy(y)
    for _ in range(STEPS):
        for tensor in parameters.values():
            tensor.requires_grad_(True)
        loss = CrossEntropy().mean(start.logits(parameters, batch), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        parameters = {
            name: tensor.detach() - rate * rule.phi(gradient)
            for (name, tensor), gradient in zip(parameters.items(), gradients, strict=True)
        }
    module = copy.deepcopy(start.lm.module)
    module.load_state_dict(parameters, strict=False)
    return asked(replace(start.lm, module=module), start.task.name)


@dataclass(frozen=True)
class Behaviour:
    """One fine-tuning: mean |chi| before it, and how far from the kernel regime it went.

    Attributes:
        chi: before fine-tuning.
        gap: the non-linear share of the change of the outputs.
        features: relative change of the kernel, in the Frobenius norm.
        distance: mean element-wise relative distance of the kernels, the paper's measure (Table 6).
    """

    chi: float
    gap: float
    features: float
    distance: float


def behaviour(lm: ft.LanguageModel, prompt: str, rule: Rule, rows: Sequence[ft.Example], y: np.ndarray) -> Behaviour:
    """Fine-tuning with one prompt, measured on its own examples."""
    before = asked(lm, prompt)
    chi = output_derivative(before.forward(before.batch(rows)).detach().numpy(), y)
    rate = rule.rate(ft.block_kernels(before, rows, formula=rule.formula).matrix(), chi)
    after = fine_tuned(before, rows, y, rule, rate)
    fixed = change_of_kernel(ft.block_kernels(before, rows), ft.block_kernels(after, rows))
    gap = linearization(before, after, rows).relative_gap
    return Behaviour(chi.mean_absolute, gap, fixed.frobenius, fixed.distance)


Sweep = dict[tuple[str, int, str], Behaviour]


def measured(widths: Sequence[int], steps: int, seeds: int) -> Sweep:
    """(rule, width, prompt) -> medians over seeds."""
    found: dict[tuple[str, int, str], list[Behaviour]] = {}
    for width in widths:
        for seed in range(seeds):
            lm = pretrained(width, steps, seed)
            rows, y = examples(16, np.random.default_rng([seed, 1]))
            for prompt in (CHANCE, *PROMPTS):
                for rule in RULES:
                    found.setdefault((rule.name, width, prompt), []).append(behaviour(lm, prompt, rule, rows, y))
    fields = ("chi", "gap", "features", "distance")
    return {
        key: Behaviour(*(float(np.median([getattr(run, field) for run in runs])) for field in fields))
        for key, runs in found.items()
    }


def curve(sweep: Sweep, rule: str, width: int) -> dict[str, np.ndarray]:
    """What was measured on the prompts that are a task, by quantity."""
    runs = [sweep[rule, width, prompt] for prompt in PROMPTS]
    return {field: np.array([getattr(run, field) for run in runs]) for field in ("chi", "gap", "features", "distance")}


def laws(sweep: Sweep, widths: Sequence[int]) -> list[Law]:
    """Slopes against chi, one a width; and chi of the most natural task against the width."""
    found = []
    for rule in RULES:
        curves = [curve(sweep, rule.name, width) for width in widths]
        for field in ("gap", "features", "distance"):
            fitted = np.array([slopes(of["chi"], of[field]) for of in curves])
            found.append(Law(f"{rule.name}: {field}", "chi", "1", fitted))
        gaps = np.array([of["gap"] for of in curves])
        found.append(Law(f"{rule.name}: gap, prompt by prompt", "n", "0", slopes(widths, gaps.T)))
    *_, natural = PROMPTS
    chi = np.array([sweep[RULES[0].name, width, natural].chi for width in widths])
    return [*found, Law(f"chi of `{natural}`", "n", "below 0", slopes(widths, chi))]


def run_table(sweep: Sweep) -> str:
    """Every number of the sweep."""
    rows = [
        [rule, str(width), prompt, *(f"{value:.4f}" for value in (run.chi, run.gap, run.features, run.distance))]
        for (rule, width, prompt), run in sweep.items()
    ]
    return table(
        ["optimiser", "width", "prompt", "chi", "gap", "features", "distance"], sorted(rows, key=lambda r: r[0])
    )


def picture(sweep: Sweep, widths: Sequence[int]) -> Figure:
    """Linearization gap and change of the kernel against chi."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, 2 * len(RULES), sharex=True)
    shown = [(rule.name, field) for rule in RULES for field in ("gap", "features")]
    for axis, (rule, field) in zip(axes, shown, strict=True):
        for i, width in enumerate(widths):
            of, chance = curve(sweep, rule, width), sweep[rule, width, CHANCE]
            axis.loglog(of["chi"], of[field], "o-", ms=3, color=f"C{i}", label=f"n = {width}")
            axis.loglog([chance.chi], [getattr(chance, field)], "o", ms=5, mfc="none", color=f"C{i}")
        axis.loglog(of["chi"], of["chi"] * of[field][0] / of["chi"][0], ":", color="black", label="chi")
        axis.set(
            title=f"{rule}: {'linearization gap' if field == 'gap' else 'change of K'}", xlabel="mean |chi| before"
        )
    axes[0].legend(fontsize=7)
    return figure


def main() -> None:
    """Print the slopes and every run, and write the picture."""
    chosen = options("Naturalness of a task and kernel behaviour of its fine-tuning, over widths.")
    torch.set_num_threads(1)  # the models are too small for more
    widths = (16, 32) if chosen.quick else (16, 32, 64, 128)
    sweep = measured(widths, steps=250 if chosen.quick else 500, seeds=1 if chosen.quick else 2)
    print(f"{law_table(laws(sweep, widths))}\n\n{run_table(sweep)}")
    picture(sweep, widths).savefig(chosen.out / "natural_tasks.png", dpi=110)


if __name__ == "__main__":
    main()
