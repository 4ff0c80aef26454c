"""Every kernel formula against whole Jacobians, explicit projections and real adapters."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foretune as ft
from foretune.analysis.johnson_lindenstrauss import JohnsonLindenstrauss, measured_deviation
from foretune.cli.options import FormulaOptions
from foretune.cli.setup import made_formulas
from foretune.gradients.source import GradientSource
from foretune.kernels import tile
from foretune.kernels.draws import draws
from foretune.kernels.projection import Projection
from foretune.kernels.signs import THRESHOLD
from tests.cases import FAMILIES, ROWS, Family, language_model, outputs_of
from tests.conftest import family
from tests.oracles import jacobian_kernel, jacobians
from tests.test_exactness import assert_same_kernel

EXAMPLES = [ft.Example.of(row) for row in ROWS]
ASYMMETRIC = ft.AsymmetricSignGD(threshold=1e-10)
SIGNS = [ft.SignGD(threshold=1e-10), ASYMMETRIC, ASYMMETRIC.reversed]


def _signs(jacobian: torch.Tensor, eps: float, scale: float) -> torch.Tensor:
    """Signs of a Jacobian, smooth or exact, without what is rounding noise of the whole."""
    kept = torch.where(jacobian.abs() > 1e-13 * scale, jacobian, 0)
    return kept.sign() if eps == 0 else kept / (kept.abs() + eps)


def _sign_oracle(outputs, formula, rows, columns) -> dict[str, np.ndarray]:
    left, right = jacobians(outputs, rows), jacobians(outputs, columns)
    scale = max(float(jacobian.abs().max()) for jacobian in left.values())
    found = {}
    for name in left:
        sides = [
            _signs(side, formula.eps, scale) if signed else side
            for side, signed in zip((left[name], right[name]), formula.sides, strict=True)
        ]
        found[name] = torch.einsum("ncp,mdp->ncmd", *sides).numpy()
    return found


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_sign_kernels_are_products_of_jacobian_signs(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile, "CHUNK_BYTES", 4096)
    outputs = outputs_of(language_model(family))
    job = ft.joint_job(outputs, EXAMPLES[:3], EXAMPLES[3:5])
    kernels = ft.kernels_of(job, SIGNS)
    for formula, kernel in zip(SIGNS, kernels.values(), strict=True):
        oracle = _sign_oracle(outputs, formula, ROWS[:3], ROWS[:5])
        # a gradient within rounding of zero may have either sign: Llama's norms compute in float32
        slack = {name: 2e-3 * np.abs(values).max() + 1e-12 for name, values in oracle.items()}
        if family.tolerance <= 1e-10:
            slack = {name: 1e-9 * max(np.abs(values).max(), 1e-9) for name, values in oracle.items()}
        for name, values in zip(kernel.names, kernel.array, strict=True):
            assert np.abs(values - oracle[name]).max() <= slack[name], (formula.label, name)


def test_smooth_signs_are_x_over_size_plus_eps() -> None:
    outputs = outputs_of(language_model(family("gpt2-causal")), difference=False)
    for formula in (ft.SignGD(1e-3, 1e-10), ft.AsymmetricSignGD(1e-2, 1e-10), ft.SignGD(1e-3, 0.0)):
        kernel = ft.block_kernels(outputs, ROWS[:3], ROWS[2:], formula)
        assert_same_kernel(kernel, _sign_oracle(outputs, formula, ROWS[:3], ROWS[2:]), 1e-6)


def test_several_formulas_share_one_pass_and_keep_their_values() -> None:
    outputs = outputs_of(language_model(family("bert-masked")), difference=False)
    formulas = [ft.SGD(), ft.SignGD(), ft.AsymmetricSignGD(), ft.AsymmetricSignGD().reversed, ft.LoRA(2), ft.LoRA(4)]
    together = ft.kernels_of(ft.joint_job(outputs, EXAMPLES[:3], EXAMPLES[3:]), formulas)
    for formula in formulas:
        alone = ft.joint_kernels(outputs, EXAMPLES[:3], EXAMPLES[3:], formula)
        np.testing.assert_allclose(together[formula.label].array, alone.array, rtol=1e-12, atol=1e-300)


def test_both_orientations_of_the_asymmetric_kernel_are_transposes() -> None:
    outputs = outputs_of(language_model(family("bert-masked")))
    forward = ft.block_kernels(outputs, ROWS[:3], ROWS[3:], ft.AsymmetricSignGD())
    backward = ft.block_kernels(outputs, ROWS[3:], ROWS[:3], ft.AsymmetricSignGD().reversed)
    np.testing.assert_allclose(forward.array, backward.array.transpose(0, 3, 4, 1, 2), rtol=1e-12)


@pytest.mark.parametrize("formula", [ft.SignGD(), ft.AsymmetricSignGD()], ids=lambda formula: formula.label)
def test_rounding_noise_has_no_sign(formula) -> None:
    kernels = []
    for dtype in (torch.float32, torch.float64):
        outputs = outputs_of(language_model(family("bert-masked"), dtype))
        kernels.append(ft.block_kernels(outputs, ROWS, formula=formula))
    single, double = (kernel.array for kernel in kernels)
    for name, first, second in zip(kernels[0].names, single, double, strict=True):
        assert np.abs(first - second).max() <= 2e-3 * np.abs(second).max(), name
    keys = kernels[0].select("*key.bias").array
    assert len(keys) == 2
    assert not keys.any()  # softmax does not see a shift of the keys


def test_an_untouched_embedding_row_has_no_sign() -> None:
    outputs = outputs_of(language_model(family("llama-causal")))
    kernel = ft.block_kernels(outputs, ROWS[:2], formula=ft.SignGD()).select("*embed_tokens*")
    tokens = [set(outputs.encode(example).ids) for example in EXAMPLES[:2]]
    assert kernel.total()[0, 0, 0, 0] == len(tokens[0]) * 16
    assert abs(kernel.total()[0, 0, 1, 0]) <= len(tokens[0] & tokens[1]) * 16


def test_tiles_do_not_change_any_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    from foretune.kernels.job import Job
    from foretune.kernels.memory_plan import TilePlan

    outputs = outputs_of(language_model(family("mixtral-causal")))
    formulas = [ft.SignGD(), ft.AsymmetricSignGD(), ft.LoRA(3), ft.IntrinsicDimension(8), ft.Kronecker(8)]
    whole = ft.kernels_of(ft.joint_job(outputs, EXAMPLES[:4], EXAMPLES[4:]), formulas)
    monkeypatch.setattr(Job, "plan", lambda *_, **__: TilePlan(1, 2, 1, 0, 0))
    tiled = ft.kernels_of(ft.joint_job(outputs, EXAMPLES[:4], EXAMPLES[4:]), formulas)
    for label, kernel in whole.items():
        scale = np.abs(kernel.array).max()
        np.testing.assert_allclose(tiled[label].array, kernel.array, rtol=0, atol=1e-10 * scale, err_msg=label)


def _with_adapters(lm: ft.LanguageModel, formula: ft.LoRA, targets: list[str]) -> ft.LanguageModel:
    """A real peft model with the same A."""
    config = peft.LoraConfig(
        r=formula.rank,
        lora_alpha=int(formula.alpha),
        target_modules=targets,
        use_rslora=formula.rslora,
        init_lora_weights=True if formula.init == "kaiming" else "gaussian",
    )
    model = peft.get_peft_model(lm.module, config)  # type: ignore[arg-type]
    for name, module in model.named_modules():
        if name.endswith("lora_A.default"):
            block = name.removeprefix("base_model.model.").removesuffix(".lora_A.default") + ".weight"
            drawn = torch.from_numpy(formula.matrix(block, module.weight.shape[1])).to(module.weight)
            with torch.no_grad():
                module.weight.copy_(drawn)
    return ft.LanguageModel(model.to(lm.dtype), lm.tokenizer, lm.name, None, lm.kind)


ADAPTED = {
    "llama-causal": ["q_proj", "v_proj", "down_proj"],
    "gpt2-causal": ["c_attn", "c_fc"],
    "bert-masked": ["query", "dense"],
    "bert-encoder": ["key", "value"],
}


@pytest.mark.parametrize("name", ADAPTED)
@pytest.mark.parametrize("choice", [{}, {"init": "gaussian"}, {"rslora": True}], ids=["kaiming", "gaussian", "rslora"])
def test_the_lora_kernel_is_that_of_a_real_peft_model(name: str, choice: dict[str, object]) -> None:
    targets = ADAPTED[name]
    formulas = [ft.LoRA(rank, alpha=12.0, targets=tuple(targets), seed=5, **choice) for rank in (1, 2, 5)]
    plain = outputs_of(language_model(family(name)))
    kernels = ft.kernels_of(ft.separate_job(plain, ROWS[:3], ROWS[2:5], None), formulas)
    for formula in formulas:
        adapted = outputs_of(_with_adapters(language_model(family(name)), formula, targets))
        oracle = jacobian_kernel(adapted, ROWS[:3], ROWS[2:5])
        found = kernels[formula.label]
        for block, values in zip(found.names, found.array, strict=True):
            wanted = next(v for key, v in oracle.items() if f"{block.removesuffix('.weight')}.lora_B." in key)
            assert np.abs(values - wanted).max() <= max(1e-10, family(name).tolerance) * np.abs(wanted).max(), block
        assert len(found.names) == sum("lora_B" in key for key in oracle)


def test_lora_targets_are_peft_targets() -> None:
    outputs = outputs_of(language_model(family("llama-causal")))
    linear = ft.LoRA().blocks(outputs.kinds())
    assert len(linear) == 14
    assert not any("embed" in name or "lm_head" in name or "norm" in name for name in linear)
    assert ft.LoRA(targets=("q_proj", "mlp.up_proj")).blocks(outputs.kinds()) == [
        name for name in linear if "q_proj" in name or "up_proj" in name
    ]
    assert ft.LoRA(targets=r".*layers\.1\..*k_proj").blocks(outputs.kinds()) == [
        "model.layers.1.self_attn.k_proj.weight"
    ]
    with pytest.raises(ft.ForetuneError, match=r"q_porj.*Did you mean 'q_proj'"):
        ft.LoRA(targets=("q_porj",)).blocks(outputs.kinds())


def test_ranks_are_nested_and_a_seed_is_a_drawing() -> None:
    small, large = ft.LoRA(2).matrix("w", 7), ft.LoRA(6).matrix("w", 7)
    assert np.array_equal(large[:2], small)
    assert np.abs(large).max() <= 1 / np.sqrt(7)
    gaussian = ft.LoRA(400, init="gaussian").matrix("w", 50)
    assert gaussian.std() == pytest.approx(1 / 400, rel=0.05)
    assert not np.array_equal(ft.LoRA(2, seed=1).matrix("w", 7), small)
    # the same numbers on every machine
    assert draws(3, "w").standard_normal(3).tolist() == pytest.approx([0.9518313657, -0.7304840905, -1.7532489853])
    assert draws(3, "w").integers(0, 100, 4).tolist() == [19, 57, 43, 95]


def test_lora_deviates_from_the_full_kernel_as_one_over_the_root_of_the_rank() -> None:
    outputs = outputs_of(language_model(family("llama-causal")))
    ranks = [1, 2, 4, 8, 16, 32, 64]
    full = ft.block_kernels(outputs, ROWS).select("*proj.weight")
    deviations = np.zeros(len(ranks))
    for seed in range(12):
        formulas = [ft.LoRA(rank, seed=seed) for rank in ranks]
        kernels = ft.kernels_of(ft.separate_job(outputs, ROWS, None, None), formulas)
        for place, formula in enumerate(formulas):
            kernel = kernels[formula.label]
            scales = np.array([formula.expected_ratio(24 if "down" in name else 16) for name in kernel.names])
            difference = kernel.array / scales[:, None, None, None, None] - full.array
            deviations[place] += np.linalg.norm(difference) / np.linalg.norm(full.array)
    slope = np.polyfit(np.log(ranks), np.log(deviations), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


def _explicit(projection: Projection, outputs, rows) -> np.ndarray:
    """Pi^T J with Pi written out, row after row of every parameter."""
    total = 0
    for name, jacobian in jacobians(outputs, rows).items():
        parameter = outputs.parameters()[name]
        transposed = outputs.kinds()[name] == "linear" and "c_" in name  # Conv1D holds (i, o)
        shape = tuple(parameter.shape[::-1]) if transposed else tuple(parameter.shape)
        rows_of, width = (1, shape[0]) if len(shape) == 1 else shape
        pi = np.concatenate([projection.piece(name, 0, row, width) for row in range(rows_of)])
        if transposed:
            jacobian = jacobian.unflatten(-1, tuple(parameter.shape)).transpose(-1, -2).flatten(-2)
        total = total + jacobian.numpy() @ pi
    return total / np.sqrt(projection.k)


@pytest.mark.parametrize("name", ["gpt2-causal", "llama-tied-causal", "bert-encoder"])
@pytest.mark.parametrize("projection", [ft.IntrinsicDimension(6, seed=2), ft.Rademacher(11)], ids=lambda p: p.label)
def test_projected_features_are_the_explicit_product(name: str, projection) -> None:
    outputs = outputs_of(language_model(family(name)), difference=False)
    features = ft.projected_features(outputs, ROWS[:4], projection)
    assert features.shape == (4, 2, projection.k)
    np.testing.assert_allclose(
        features, _explicit(projection, outputs, ROWS[:4]), rtol=0, atol=1e-6 * np.abs(features).max()
    )
    kernel = ft.block_kernels(outputs, ROWS[:4], formula=projection)
    np.testing.assert_allclose(
        kernel.total(), np.einsum("nck,mdk->ncmd", features, features), atol=1e-9 * kernel.total().max()
    )


@pytest.mark.parametrize("kind", [ft.IntrinsicDimension, ft.Rademacher, ft.Kronecker])
@pytest.mark.parametrize("name", ["bert-masked", pytest.param("mixtral-causal", marks=pytest.mark.sweep)])
def test_projected_kernels_are_unbiased(kind, name: str) -> None:
    outputs = outputs_of(language_model(family(name)))
    full = ft.block_kernels(outputs, ROWS[:3]).total()
    found = [ft.block_kernels(outputs, ROWS[:3], formula=kind(64, seed)).total() for seed in range(16)]
    spread = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - full) <= 4.5 * spread + 1e-12).all()
    assert np.linalg.norm(found[0] - full) / np.linalg.norm(full) < 1


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 10**5), c=st.floats(1e-3, 1e4), delta=st.floats(1e-6, 0.5), k=st.integers(1, 10**6))
def test_a_deviation_fails_with_the_chance_that_was_asked_for(n, c, delta, k) -> None:
    epsilon = JohnsonLindenstrauss(n, c, delta).deviation(k) / c
    if np.isinf(epsilon):
        assert 4 * n**2 * np.exp(-4 / 27 * k / 4) >= delta
    else:
        assert np.log(4 * n**2) - (epsilon**2 - epsilon**3) * k / 4 == pytest.approx(np.log(delta))


def test_measured_deviations_stay_below_the_bound() -> None:
    outputs = outputs_of(language_model(family("gpt2-causal")))
    full = ft.block_kernels(outputs, ROWS).matrix()
    premises, k = JohnsonLindenstrauss(len(full), c=float(np.abs(full).max())), 512
    deviation = measured_deviation(
        full, ft.block_kernels(outputs, ROWS, formula=ft.Rademacher(k)).matrix(), k, premises
    )
    assert deviation.largest < deviation.bound <= 2 / 3 * premises.c
    with pytest.raises(ft.ForetuneError, match="k is 0"):
        premises.deviation(0)


def test_filters_choose_parameters() -> None:
    outputs = outputs_of(language_model(family("bert-masked")))
    chosen = {
        "embeddings": outputs.chosen(ft.ParameterFilter(embeddings=False)),
        "head": outputs.chosen(ft.ParameterFilter(head=False)),
        "biases": outputs.chosen(ft.ParameterFilter(biases_only=True)),
        "layer": outputs.chosen(ft.ParameterFilter(layers=(1,))),
    }
    assert not any("_embeddings.weight" in name for name in chosen["embeddings"])
    assert any("LayerNorm" in name for name in chosen["embeddings"])
    assert all(name.startswith("bert.") for name in chosen["head"])
    assert all(name.endswith("bias") for name in chosen["biases"])
    assert all(".layer.1." in name for name in chosen["layer"])
    kernel = ft.block_kernels(outputs, ROWS[:2], blocks=chosen["layer"])
    assert list(kernel.names) == chosen["layer"]
    with pytest.raises(ft.ForetuneError, match="There is no layer 7"):
        outputs.chosen(ft.ParameterFilter(layers=(7,)))
    with pytest.raises(ft.ForetuneError, match="leaves none"):
        outputs.chosen(ft.ParameterFilter(lora_only=True))


def test_a_parameter_in_every_place_has_a_kind() -> None:
    for item in FAMILIES:
        outputs = outputs_of(language_model(item))
        kinds = outputs.kinds()
        assert list(kinds) == list(outputs.parameters())
        assert "linear" in kinds.values()
        source = GradientSource(outputs, EXAMPLES[:1], list(kinds))
        assert source.parameters.keys() == kinds.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype", "tolerance"), [("minilm", "float32", 1e-5), ("smollm2", "float64", 1e-7)])
def test_the_lora_kernel_of_a_real_model_is_that_of_peft(name: str, dtype: str, tolerance: float) -> None:
    # SmolLM2 computes its norms in float32 even in float64; a float32 loop through peft is itself only good to 1e-3
    lm, task = ft.load_model(name, dtype=dtype), ft.load_task("movies")
    rows = task.few_shot(ft.load_rows(task), k=2, seed=13, test=4).test[: 4 if name == "minilm" else 2]
    targets = ["query", "value"] if name == "minilm" else ["q_proj", "v_proj"]
    formula = ft.LoRA(8, targets=tuple(targets), seed=3)

    kernel = ft.block_kernels(outputs_of(lm), rows, formula=formula)
    adapted = outputs_of(_with_adapters(lm, formula, targets))
    oracle = {key: values for key, values in jacobian_kernel(adapted, rows).items() if "lora_B" in key}
    assert len(oracle) == len(kernel.names)
    for block, values in zip(kernel.names, kernel.array, strict=True):
        wanted = next(v for key, v in oracle.items() if f"{block.removesuffix('.weight')}.lora_B." in key)
        assert np.abs(values - wanted).max() <= tolerance * np.abs(wanted).max(), block


@pytest.mark.slow
def test_on_real_factors_lora_deviates_as_one_over_the_root_of_the_rank() -> None:
    ranks = [1, 2, 4, 8, 16, 32, 64]
    lm, task = ft.load_model("minilm"), ft.load_task("movies")
    rows = task.few_shot(ft.load_rows(task), k=2, seed=13, test=12).test
    job = ft.separate_job(ft.HeadLogits(lm), rows, None, "encoder.*")
    full = ft.kernels_of(job, [ft.SGD()])["sgd"]
    deviations = np.zeros((4, len(ranks)))
    for seed in range(len(deviations)):
        formulas = [ft.LoRA(rank, seed=seed) for rank in ranks]
        for place, (formula, kernel) in enumerate(zip(formulas, ft.kernels_of(job, formulas).values(), strict=True)):
            weights = full.select(lambda name: name in kernel.names)  # noqa: B023 - used at once
            inputs = [1536 if "output.dense" in name and "attention" not in name else 384 for name in kernel.names]
            ratios = np.array([formula.expected_ratio(size) for size in inputs])
            difference = kernel.array / ratios[:, None, None, None, None] - weights.array
            deviations[seed, place] = np.linalg.norm(difference) / np.linalg.norm(weights.array)
    slopes = [np.polyfit(np.log(ranks), np.log(row), 1)[0] for row in deviations]
    assert np.mean(slopes) == pytest.approx(-0.5, abs=0.1)


def test_the_command_has_the_thresholds_of_the_library() -> None:
    assert FormulaOptions().threshold == THRESHOLD
    (exact,) = made_formulas(FormulaOptions(formula="signgd", threshold=0.0))
    assert exact == ft.SignGD(threshold=0.0)
    assert made_formulas(FormulaOptions(formula="asymmetric")) == [
        ft.AsymmetricSignGD(),
        ft.AsymmetricSignGD().reversed,
    ]


def test_a_kernel_is_shown_by_its_sizes_and_not_by_its_values() -> None:
    names = tuple(f"layer.{place}.weight" for place in range(272))
    shown = repr(ft.BlockKernel(names, np.zeros((272, 3, 2, 7, 2))))
    assert shown == "BlockKernel(272 blocks (layer.0.weight, ..., layer.271.weight), 3 x 7 examples, 2 x 2 outputs)"
    assert repr(ft.BlockKernel(("a",), np.zeros((1, 3, 2, 7, 2)))).startswith("BlockKernel(1 block (a), ")
