"""Kernels of blocks on their way to the host: examples back in their own order, refused where they are not finite."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from foretune.kernels.tile import Tile
from foretune.shapes import Float, Float64


class Arrivals:
    """Puts the kernels of two tiles, block after block, where they belong.

    On a GPU they are ordered there, and travel through pinned memory while the next block is computed: `put` returns
    before a kernel has arrived, `finish` after the last one has.

    Args:
        rows, columns: the tiles; a kernel's examples stand in the order of their batches.
    """

    def __init__(self, rows: Tile, columns: Tile) -> None:
        places = [[place for batch in tile for place in batch.positions] for tile in (rows, columns)]
        self._order = [np.argsort(each) for each in places]
        self._on_device: list[Tensor] = []
        self._arrive: Callable[[], None] = lambda: None

    def put(self, kernel: Float[Tensor, "n c m d"], into: np.ndarray, refused: Callable[[], Exception]) -> None:
        """Send one kernel on its way.

        Args:
            kernel: of one block, float64.
            into: where it goes, shape (n, c, m, d).
            refused: what is raised where it is infinite or undefined.
        """
        if kernel.device.type == "cuda":
            self._send(kernel, into, refused)
            return
        block: Float64[np.ndarray, "n c m d"] = kernel.cpu().numpy()
        if not np.isfinite(block).all():
            raise refused()
        into[...] = block[self._order[0]][:, :, self._order[1]]

    def _send(self, kernel: Float[Tensor, "n c m d"], into: np.ndarray, refused: Callable[[], Exception]) -> None:
        if not self._on_device:
            self._on_device = [torch.from_numpy(order).to(kernel.device) for order in self._order]
        ordered = kernel.index_select(0, self._on_device[0]).index_select(2, self._on_device[1])
        block = torch.empty(ordered.shape, dtype=ordered.dtype, pin_memory=True).copy_(ordered, non_blocking=True)
        is_finite = torch.isfinite(ordered).all()
        finite = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(is_finite, non_blocking=True)
        sent = torch.cuda.Event()
        sent.record(torch.cuda.current_stream(kernel.device))

        def arrive() -> None:
            sent.synchronize()
            if not finite.item():
                raise refused()
            into[...] = block.numpy()

        self.finish()
        self._arrive = arrive

    def finish(self) -> None:
        """Wait for the last one."""
        arrive, self._arrive = self._arrive, lambda: None
        arrive()
