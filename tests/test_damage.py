"""Damaged files are named, and computed again or refused with what to type: never other numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import foretune as ft
from foretune.errors import StorageError
from tests.command_line import ROOT
from tests.conftest import assert_refused, run_cli, run_code
from tests.test_cli import TILES
from tests.test_finetune_runs import SCRIPT, long_run, undisturbed_run
from tests.test_targets import snapshot

SMALL = ("--k", 2, "--test", 6)


def flipped(place: float) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        if content:
            content[min(int(place * len(content)), len(content) - 1)] ^= 4
        file.write_bytes(content)

    return damage


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def into_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    **{f"flipped-at-{place}": flipped(place) for place in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)},
    "emptied": lambda file: file.write_bytes(b""),
    "cut": cut,
    "deleted": Path.unlink,
    "null": lambda file: file.write_text("null"),
    "list": lambda file: file.write_text("[]\n"),
    "object": lambda file: file.write_text("{}\n"),
    "deep": lambda file: file.write_text("[" * 50_000),
    "not-text": lambda file: file.write_bytes(b"\xff\xfe" * 20),
    "folder": into_a_folder,
}  # fmt: skip


@pytest.fixture(scope="module")
def kernels(bert_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kernels") / "run"
    result = run_cli("kernel", bert_folder, data, *SMALL, "--out", out)
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def run(bert_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    options = ("--steps", 4, "--evaluate-every", 2, "--learning-rate", 0.01, "--out", out)
    result = run_cli("tune", bert_folder, data, *SMALL, *options)
    assert result.returncode == 0, result.stderr
    return out


def files(folder: Path) -> Iterator[str]:
    return (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())


def numbers(file: Path) -> dict[str, object]:
    aside = ("folder", "stages", "made_by")
    return {name: value for name, value in json.loads(file.read_text()).items() if name not in aside}


KERNEL_FILES = (
    "experiment.json",
    "head.safetensors",
    "report.html",
    "run.yaml",
    "seen.safetensors",
    "kernels/sgd/kernel.json",
    "kernels/sgd/kernel.zarr/zarr.json",
    "kernels/sgd/kernel.zarr/c/0/0/0/0/0",
    "values/pretrained-outputs.json",
)


def test_a_kernel_folder_has_these_files(kernels: Path) -> None:
    assert sorted(files(kernels)) == sorted(KERNEL_FILES)


@pytest.mark.parametrize("name", KERNEL_FILES)
def test_a_damaged_file_of_a_kernel_is_refused_or_without_effect(name: str, kernels: Path, tmp_path: Path) -> None:
    target = tmp_path / "solutions.json"
    assert run_cli("solve", kernels, "--json", target).returncode == 0
    expected = numbers(target)
    harmless = []
    for kind, damage in DAMAGE.items():
        copied = tmp_path / kind
        shutil.copytree(kernels, copied)
        damage(copied / name)
        result = run_cli("solve", copied, "--json", target)
        if result.returncode == 0:
            assert numbers(target) == expected, kind
            harmless.append(kind)
        else:
            assert_refused(result)
    if name not in ("run.yaml", "head.safetensors", "seen.safetensors", "report.html"):
        assert set(harmless) <= {kind for kind in DAMAGE if kind.startswith("flipped")}, "a part was not missed"


ITSELF = "runs/ft-adamw-ITS-HASH/point-0"
RUN_FILES = ("run.yaml", "result.json", "report.html", "experiment.json", "head.safetensors", f"{ITSELF}/run.json",
             f"{ITSELF}/log.jsonl", f"{ITSELF}/best/parameters.safetensors", f"{ITSELF}/result.json",
             f"{ITSELF}/test.npy")  # fmt: skip


def found(run: Path, name: str) -> str:
    """A name with the hash that the run's own folder has."""
    (place,) = (run / "runs").iterdir()
    return name.replace("ft-adamw-ITS-HASH", place.name)


SOME = ("flipped-at-0.5", "flipped-at-0.9", "emptied", "cut", "deleted", "folder")


@pytest.mark.sweep
@pytest.mark.parametrize("name", RUN_FILES)
def test_a_damaged_file_of_a_run_is_refused_or_without_effect(name: str, run: Path, tmp_path: Path) -> None:
    assert sorted(files(run)) == sorted(found(run, each) for each in RUN_FILES)
    target = tmp_path / "behaviour.json"
    options = ("--segment-points", 1, "--segment-examples", 1, "--json", target)
    assert run_cli("behaviour", run, *options).returncode == 0
    expected = numbers(target)
    for kind in SOME:
        copied = tmp_path / kind
        shutil.copytree(run, copied)
        DAMAGE[kind](copied / found(run, name))
        result = run_cli("behaviour", copied, *options)
        if result.returncode == 0:
            assert numbers(target) == expected, kind
            probed_again = name == "head.safetensors" and kind == "deleted"
            assert kind.startswith("flipped") or name in ("run.yaml", "report.html") or probed_again, kind
        else:
            assert_refused(result)


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_damaged_run_is_shown_rightly_or_refused(
    name: str, run: Path, bert_folder: Path, data: Path, tmp_path: Path
) -> None:
    target = tmp_path / "run.json.txt"
    command = ("tune", bert_folder, data, *SMALL, "--steps", 4, "--evaluate-every", 2, "--learning-rate", 0.01)
    assert run_cli(*command, "--out", run, "--json", target).returncode == 0
    expected = numbers(target)
    for kind in ("flipped-at-0.5", "emptied", "deleted", "null", "deep", "folder"):
        copied = tmp_path / kind
        shutil.copytree(run, copied)
        DAMAGE[kind](copied / found(run, name))
        result = run_cli(*command, "--out", copied, "--json", target)
        if result.returncode == 0:
            apart = {"about": 0, "page": 0}  # they say whether the run was read or made again
            assert numbers(target) | apart == expected | apart, kind
        else:
            assert_refused(result)


@pytest.fixture(scope="module")
def unfinished(llama_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A kernel of which four tiles are there, and the whole of it."""
    made = tmp_path_factory.mktemp("tiles")
    for name, after in (("whole", "pass"), ("begun", "len(written) == 4 and os.kill(os.getpid(), signal.SIGKILL)")):
        done = run_code(TILES.format(after=after), *kernel_command(llama_folder, data, made / name))
        assert done.returncode == (0 if name == "whole" else -signal.SIGKILL), done.stderr
    return made / "begun", made / "whole"


def kernel_command(model: Path, data: Path, out: Path) -> tuple[object, ...]:
    return "kernel", model, data, "--words=negative=terrible,positive=great", "--k", 4, "--test", 6, "--out", out


def of_another_shape(file: Path) -> None:
    np.save(file, np.load(file)[:, :1, :, :1])


def zeros(file: Path) -> None:
    np.save(file, np.zeros_like(np.load(file)))


def swapped(file: Path) -> None:
    other = next(path for path in file.parent.glob("*.npy") if path != file)
    shutil.copyfile(other, file)


def cut_in_its_last_line(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def cut_in_its_head(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:20])


_FLIPPED = ("flipped-at-0.0", "flipped-at-0.5", "flipped-at-0.98")
TILE_DAMAGE = {**{name: DAMAGE[name] for name in (*_FLIPPED, "emptied", "cut", "deleted")}, "swapped": swapped,
               "cut-in-its-last-line": cut_in_its_last_line, "cut-in-its-head": cut_in_its_head}  # fmt: skip
NO_TILES = {"of-another-shape": of_another_shape, "zeros": zeros,
            **{name: DAMAGE[name] for name in ("null", "not-text", "folder")}}  # fmt: skip


def copied_with_a_tile(begun: Path, run: Path) -> Path:
    """One of the tiles of a copy of a run that is begun."""
    shutil.copytree(begun, run)
    return sorted((run / "kernels" / "sgd" / "tiles").glob("*.npy"))[1]


@pytest.mark.parametrize("kind", TILE_DAMAGE)
def test_a_damaged_tile_is_named_and_computed_again(
    kind: str, unfinished: tuple[Path, Path], llama_folder: Path, data: Path, tmp_path: Path
) -> None:
    begun, whole = unfinished
    tile = copied_with_a_tile(begun, tmp_path / "run")
    TILE_DAMAGE[kind](tile)
    result = run_cli(*kernel_command(llama_folder, data, tmp_path / "run"))
    assert result.returncode == 0, result.stderr
    named = f"{tile} is damaged" in result.stderr and "It is computed again" in result.stderr
    assert named is (kind != "deleted"), result.stderr
    made, same = (ft.BlockKernel.open(folder / "kernels" / "sgd").array for folder in (tmp_path / "run", whole))
    assert np.array_equal(made, same)
    assert sorted(path.name for path in tile.parents[1].iterdir()) == ["kernel.json", "kernel.zarr"]


@pytest.mark.parametrize("kind", NO_TILES)
def test_what_stands_under_the_name_of_a_tile_and_never_was_one_is_refused_and_stays(
    kind: str, unfinished: tuple[Path, Path], llama_folder: Path, data: Path, tmp_path: Path
) -> None:
    begun, whole = unfinished
    tile = copied_with_a_tile(begun, tmp_path / "run")
    NO_TILES[kind](tile)
    before = snapshot(tile.parent)
    refused = run_cli(*kernel_command(llama_folder, data, tmp_path / "run"))
    assert_refused(refused, 1, f"{tile} is not as foretune writes its arrays", "Move it: mv -- ")
    assert snapshot(tile.parent) == before
    subprocess.run(["/bin/sh", "-c", "mv -- " + refused.stderr.partition("mv -- ")[2]], check=True)
    again = run_cli(*kernel_command(llama_folder, data, tmp_path / "run"))
    assert again.returncode == 0, again.stderr
    made, same = (ft.BlockKernel.open(folder / "kernels" / "sgd").array for folder in (tmp_path / "run", whole))
    assert np.array_equal(made, same)
    assert os.listdir(tile.parent) == [f"{tile.name}.old"]  # noqa: PTH208


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed at step 7, with the checkpoints 4 and 6."""
    out = tmp_path_factory.mktemp("killed") / "run"
    done = run_code(SCRIPT, "step", out, ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return out


CHECKPOINT_DAMAGE = [
    ("optimizer.pt", "deleted"), ("scheduler.pt", "deleted"), ("rng_state.pth", "deleted"),
    ("rng_state.pth", "flipped-at-0.5"), ("trainer_state.json", "emptied"), ("model.safetensors", "flipped-at-0.9"),
    ("complete", "emptied"), ("complete", "deleted"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "kind"), CHECKPOINT_DAMAGE)
def test_a_damaged_last_checkpoint_is_left_for_the_one_before(
    part: str, kind: str, killed: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path / "run")
    DAMAGE[kind](tmp_path / "run" / "checkpoints" / "checkpoint-6" / part)
    steps: list[int] = []
    quiet = (part, kind) == ("complete", "deleted")  # as after a kill
    with pytest.warns(UserWarning, match="not go on from checkpoint-6") if not quiet else nullcontext():
        resumed = long_run(tmp_path / "run", lambda what, step, total: steps.append(step))
    assert min(steps) == 5
    assert resumed.losses == undisturbed_run().losses
    np.testing.assert_array_equal(resumed.test_logits, undisturbed_run().test_logits)


@pytest.mark.parametrize("number", [2, 4, 6, 50])
def test_a_checkpoint_that_foretune_did_not_write_is_refused_and_stays(
    number: int, killed: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path / "run")
    foreign = tmp_path / "run" / "checkpoints" / f"checkpoint-{number}"
    shutil.rmtree(foreign, ignore_errors=True)
    foreign.mkdir()
    (foreign / "model.safetensors").write_text("mine")
    with pytest.raises(StorageError, match=rf"checkpoint-{number} is not a checkpoint that foretune wrote.*mv -- "):
        long_run(tmp_path / "run")
    assert (foreign / "model.safetensors").read_text() == "mine"


def test_a_finished_run_drops_its_own_checkpoints_only(killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path / "run")
    long_run(tmp_path / "run")
    own, foreign = (tmp_path / "run" / "checkpoints" / f"checkpoint-{number}" for number in (6, 50))
    shutil.copytree(killed / "checkpoints" / own.name, own)
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.warns(UserWarning, match="checkpoint-50 is not a checkpoint that foretune wrote, and stays"):
        long_run(tmp_path / "run")
    assert not own.exists() and (foreign / "notes.txt").read_text() == "mine"


def test_a_log_that_is_not_one_is_refused_and_stays(killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path / "run")
    (tmp_path / "run" / "log.jsonl").write_text("mine")
    with pytest.raises(StorageError, match=r"log\.jsonl is damaged"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        long_run(tmp_path / "run")
    assert (tmp_path / "run" / "log.jsonl").read_text() == "mine"


def test_without_a_whole_checkpoint_the_run_starts_again_and_says_so(killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path / "run")
    (tmp_path / "run" / "best" / "parameters.safetensors").unlink()
    steps: list[int] = []
    with pytest.warns(UserWarning, match="the run starts again"):
        resumed = long_run(tmp_path / "run", lambda what, step, total: steps.append(step))
    assert min(steps) == 1
    np.testing.assert_array_equal(resumed.test_logits, undisturbed_run().test_logits)
