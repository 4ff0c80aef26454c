"""Token Grams of packed factors against the sum that they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretune.gradients.factors import FactorBatch, Products
from foretune.kernels import tile as tiles_of
from foretune.kernels.materialised import materialised_kernel
from foretune.kernels.tile import Workspace
from foretune.kernels.token_gram import Seeing, token_gram_kernels

BLOCKS = ("query", "key", "expert")


def _batch(generator: torch.Generator, n: int, t: int, c: int, *, uses: bool) -> FactorBatch:
    """Made-up factors: query and key share their input, the expert reads its own; some tokens have no gradient."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    def derivatives(alive: torch.Tensor | bool) -> tuple[torch.Tensor, ...]:
        return tuple(normal(n, t, 2) * alive for _ in range(c))

    alive = torch.rand(n, t, 1, generator=generator) < 0.7
    x, group = normal(n, t, 3), torch.randint(0, 2, (n, t), generator=generator)
    factors = {
        "query": Products(x, derivatives(alive)),
        "key": Products(x, derivatives(alive)),
        "expert": Products(normal(n, t, 4), derivatives(True), group),
    }
    return FactorBatch(tuple(range(n)), normal(n, c), factors if uses else {"key": factors["key"]})  # type: ignore[arg-type]


def _tile(seed: int, c: int, shapes: list[tuple[int, int]]) -> list[FactorBatch]:
    """One batch a shape; the second one does not use every block."""
    generator = torch.Generator().manual_seed(seed)
    return [_batch(generator, n, t, c, uses=place != 1) for place, (n, t) in enumerate(shapes)]


def _gradients(tile: list[FactorBatch], name: str, c: int) -> torch.Tensor:
    """Whole gradients (examples, c, slices, o, i)."""
    found = []
    for batch in tile:
        factor = batch.factors.get(name)
        if not isinstance(factor, Products):
            found.append(torch.zeros(len(batch.positions), c, 2, 2, 4 if name == "expert" else 3, dtype=torch.float64))
            continue
        group = torch.zeros(factor.x.shape[:2], dtype=torch.long) if factor.group is None else factor.group
        slices = torch.nn.functional.one_hot(group, 2).double()  # (n, t, slices)
        found.append(torch.einsum("ncto,nti,nts->ncsoi", torch.stack(factor.g, 1), factor.x, slices))
    return torch.cat(found)


SHAPES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    c=st.integers(1, 3),
    left=SHAPES,
    right=st.none() | SHAPES,
    chunk=st.sampled_from([1, 900, 2**24]),
)
def test_packed_tokens_give_the_products_of_whole_gradients(seed, c, left, right, chunk) -> None:
    rows = _tile(seed, c, left)
    columns = rows if right is None else _tile(seed + 1, c, right)
    space = Workspace(rows[0].outputs)
    a = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    seen = {"query": Seeing(a, [1, 2, 5]), "key": Seeing(a[:2], [2])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_of, "CHUNK_BYTES", chunk)
        found = token_gram_kernels(BLOCKS, rows, columns, space, seen.get, same=right is None)
        by_name = {name: (kernel, by_rank) for name, kernel, by_rank in found}
    for name, (kernel, by_rank) in by_name.items():
        left_gradients, right_gradients = (_gradients(tile, name, c) for tile in (rows, columns))
        expected = torch.einsum("ncsoi,mdsoi->ncmd", left_gradients, right_gradients)
        torch.testing.assert_close(kernel, expected, rtol=1e-12, atol=1e-12)
        assert list(by_rank) == (seen[name].ranks if name in seen else [])
        for rank, through in by_rank.items():
            rows_of_a = seen[name].a[:rank]
            expected = torch.einsum("ncsor,mdsor->ncmd", left_gradients @ rows_of_a.T, right_gradients @ rows_of_a.T)
            torch.testing.assert_close(through, expected, rtol=1e-12, atol=1e-12)
    assert list(by_name) == list(BLOCKS)


def test_a_block_without_any_gradient_has_a_zero_kernel() -> None:
    (batch,) = _tile(0, 2, [(3, 4)])
    factor = batch.factors["query"]
    batch.factors["query"] = Products(factor.x, tuple(torch.zeros_like(g) for g in factor.g))
    found = {
        name: kernel
        for name, kernel, _ in token_gram_kernels(BLOCKS, [batch], [batch], Workspace(batch.outputs), same=True)
    }
    assert not found["query"].any()
    assert found["key"].any()


def test_both_ways_to_a_kernel_agree() -> None:
    rows, columns = _tile(3, 2, [(4, 5), (2, 3), (3, 2)]), _tile(4, 2, [(2, 6)])
    space = Workspace(rows[0].outputs)
    for name, kernel, _ in token_gram_kernels(BLOCKS, rows, columns, space, same=False):
        torch.testing.assert_close(
            kernel, materialised_kernel(name, rows, columns, Workspace(rows[0].outputs), same=False)
        )
