"""Draws the picture of docs/explanation/kernel-view.md: `python -m benchmarks.kernel_picture`.

Left the SGD kernel of 16 reviews, in the middle what each part adds to its trace, on the right the training loss of full
batch gradient descent beside the one that the kernel predicts. Model: bert-tiny. Writes docs/pictures/kernel.svg.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from torch.nn.functional import softplus

import foretune as ft

STEPS = 60
SHARE = 0.2
"""Learning rate, as a share of the largest stable one."""
FILE = Path(__file__).parent.parent / "docs" / "pictures" / "kernel.svg"


def losses_of_run(outputs: ft.AnswerLogits, rows: list[ft.Example], y: torch.Tensor, rate: float) -> list[float]:
    """Mean logistic loss before each step of gradient descent on all parameters."""
    batch = outputs.batch(rows)
    theta = {name: each.detach().clone().requires_grad_() for name, each in outputs.parameters().items()}
    found = []
    for _ in range(STEPS):
        loss = softplus(-y * outputs.logits(theta, batch)[:, 0]).mean()
        found.append(loss.item())
        slopes = torch.autograd.grad(loss, list(theta.values()), allow_unused=True)
        with torch.no_grad():
            for each, slope in zip(theta.values(), slopes, strict=True):
                if slope is not None:
                    each -= rate * slope
    return found


def predicted_losses(kernel: np.ndarray, f0: np.ndarray, y: np.ndarray, rate: float) -> list[float]:
    """The same from the kernel: f <- f - rate K (d loss / d f)."""
    f, found = f0.copy(), []
    for _ in range(STEPS):
        found.append(float(np.logaddexp(0, -y * f).mean()))
        f -= rate * kernel @ (-y / (1 + np.exp(y * f))) / len(y)
    return found


def main() -> None:
    """Compute and draw."""
    lm = ft.load_model("bert-tiny", dtype="float32", device="cpu")
    task = ft.load_task("movies")
    rows = sorted(task.few_shot(ft.load_rows(task), k=8, seed=13, test=8).train, key=lambda row: row.label)
    outputs = ft.AnswerLogits(lm, task)
    kernel = ft.block_kernels(outputs, rows, memory="2GiB")
    K = kernel.matrix()  # (16, 16)  # noqa: N806
    y = np.array([1.0 if row.label == "positive" else -1.0 for row in rows])
    rate = SHARE * 8 * len(y) / np.linalg.eigvalsh(K)[-1]  # the second derivative of the loss is at most 1/4
    with torch.no_grad():
        f0 = outputs.logits(outputs.parameters(), outputs.batch(rows))[:, 0].double().numpy()

    parts = {
        "embeddings": "*embeddings*", "attention 0": "*layer.0.attention*", "MLP 0": "*layer.0.[io]*",
        "attention 1": "*layer.1.attention*", "MLP 1": "*layer.1.[io]*", "output": "*cls*",
    }  # fmt: skip
    traces = {name: np.trace(kernel.select(each).matrix()) / np.trace(K) for name, each in parts.items()}

    mpl.rcParams.update({"svg.hashsalt": "foretune", "svg.fonttype": "path", "font.size": 9})
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    left.imshow(K, cmap="viridis")
    left.set(title="kernel of 16 reviews", xticks=[3.5, 11.5], yticks=[3.5, 11.5])
    left.set_xticklabels(["negative", "positive"])
    left.set_yticklabels(["negative", "positive"], rotation=90, va="center")
    middle.barh(list(traces)[::-1], list(traces.values())[::-1], color="#4c78a8")
    middle.set(title="share of the diagonal", xlabel="share of the trace")
    right.plot(losses_of_run(outputs, rows, torch.tensor(y, dtype=torch.float32), rate), label="real run")
    right.plot(predicted_losses(K, f0, y, rate), "--", label="from the kernel")
    right.set(title="training loss", xlabel="step of gradient descent", ylabel="nats")
    right.legend()
    figure.savefig(FILE, metadata={"Date": None})


if __name__ == "__main__":
    main()
