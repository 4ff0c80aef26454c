"""The command line as a process: what works, and one clear message for each mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

import foretune as ft
from foretune.pages.terminal import SCREEN
from tests.command_line import ENVIRONMENT
from tests.conftest import WORDS, assert_refused, assert_valid, interruptible, many_rows, run_cli, run_code, write_jsonl


def test_import_and_help_do_not_load_torch() -> None:
    code = "import sys, foretune, foretune.cli.main; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    shown = run_cli("--help")
    assert shown.returncode == 0
    assert all(command in shown.stdout for command in ("forecast", "kernel", "tasks", "env"))


@pytest.mark.slow
def test_forecast_writes_everything_it_prints(llama_folder: Path, data_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "forecast.json"
    result = run_cli("forecast", llama_folder, data_file, WORDS, "--k", 4, "--test", 10, "--json", target)
    assert result.returncode == 0, result.stderr
    record = json.loads(target.read_text())
    assert_valid("forecast", record)
    found = record["forecast"]
    shown = " ".join(result.stdout.split())
    assert shown.endswith(record["page"]["answer"]) and found["answer"] not in shown
    assert len(run_cli("show", target, env={"COLUMNS": "80"}).stdout.splitlines()) <= SCREEN
    assert found["answer"] in " ".join(run_cli("show", target, "--details").stdout.split())
    assert record["sizes"]["train"] == 8
    assert {part["kind"] for part in found["parts"]} == {"layer", "module type"}
    assert 0 <= found["whole"]["score"]["value"] <= 1
    assert found["learning_rate"]["cross_entropy"] == pytest.approx(8 * 8 / found["whole"]["largest"])
    assert {stage["name"] for stage in record["stages"]} >= {"load the model", "kernel", "forecast"}
    assert "\x1b" not in result.stderr  # no progress bar where no terminal is


def test_kernel_folder_can_be_read_without_foretune(bert_folder: Path, data_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run_cli("kernel", bert_folder, data_file, "--k", 4, "--test", 5, "--out", out)
    assert result.returncode == 0, result.stderr
    array = np.asarray(zarr.open_array(out / "kernels" / "sgd" / "kernel.zarr", mode="r")[:])
    description = json.loads((out / "kernels" / "sgd" / "kernel.json").read_text())
    assert array.shape == tuple(description["shape"]) == (len(description["names"]), 8, 1, 21, 1)
    np.testing.assert_allclose(array[:, :, :, :8], array[:, :, :, :8].transpose(0, 3, 4, 1, 2))
    kernel = ft.BlockKernel.open(out / "kernels" / "sgd")
    assert np.array_equal(kernel.array, array)

    again = tmp_path / "again"
    repeated = run_cli("kernel", bert_folder, data_file, "--config", out / "run.yaml", "--out", again)
    assert repeated.returncode == 0, repeated.stderr
    assert np.array_equal(ft.BlockKernel.open(again / "kernels" / "sgd").array, array)

    other = run_cli("kernel", bert_folder, data_file, "--k", 4, "--test", 5, "--seed", 21, "--out", out)
    assert_refused(other, 2, "holds another experiment: it differs in test, train, validation", "Choose another folder")


def test_plan_computes_nothing(llama_folder: Path, data_file: Path) -> None:
    result = run_cli("forecast", llama_folder, data_file, WORDS, "--k", 4, "--test", 10, "--plan")
    assert result.returncode == 0, result.stderr
    assert "no kernel was computed" in result.stdout
    assert "accuracy" not in result.stdout


def test_tasks_and_env_list_what_there_is() -> None:
    shown = run_cli("tasks").stdout
    assert "movies" in shown
    assert "smollm2" in shown
    assert "torch" in run_cli("env").stdout


def test_settings_file_with_an_unknown_option_names_the_nearest(
    llama_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("memmory: 1GiB\n")
    assert_refused(run_cli("forecast", llama_folder, data_file, "--config", file), 2, "'memmory'", "'memory'")


BAD_DATA = {
    "empty": ("empty.jsonl", b"", "holds no rows"),
    "one-class": ("one.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n', "one label only"),
    "not-json": ("bad.jsonl", b'{"text": "a", "label"\n', "line 1: not JSON"),
    "unknown-column": ("c.csv", b"sentence,label\ngood,positive\nbad,negative\n", "no column 'text'"),
    "binary": ("c.jsonl", b"\xff\xfe\x00\x01", "mark of UTF-16"),
    "ragged-csv": ("c.csv", b"text,label\ngood,positive,9\n", "do not fit the header"),
    "unknown-suffix": ("c.xlsx", b"PK", "unknown kind of file"),
}


@pytest.mark.parametrize("case", BAD_DATA, ids=str)
def test_unusable_data_is_refused_with_one_message(case: str, llama_folder: Path, tmp_path: Path) -> None:
    name, content, message = BAD_DATA[case]
    (tmp_path / name).write_bytes(content)
    assert_refused(run_cli("forecast", llama_folder, tmp_path / name, "--k", 1), 2, message)


BAD_OPTIONS = {
    "missing-file": (["nowhere.jsonl"], 2, "does not exist"),
    "unknown-task": (["movie"], 2, "foretune tasks"),
    "too-large-k": (["DATA", WORDS, "--k", "50"], 2, "k = 50 needs 100"),
    "zero-k": (["DATA", WORDS, "--k", "0"], 2, "--k is 0"),
    "word-pieces": (["DATA", "--words=negative=bad film,positive=great"], 2, "is 2 tokens here (bad, film)"),
    "unknown-word": (["DATA", "--words=negative=abysmal,positive=great"], 2, "does not know the word 'abysmal'"),
    "same-words": (["DATA", "--words=negative=great,positive=great"], 2, "are the same token"),
    "word-for-no-label": (["DATA", "--words=negativ=bad"], 2, "Did you mean 'negative'?"),
    "bad-template": (["DATA", WORDS, "--template", "{txt} it was"], 2, "'txt' is not one of them"),
    "no-such-block": (["DATA", WORDS, "--k", "4", "--blocks", "*nothing*"], 2, "No parameter block matches"),
    "little-memory": (["DATA", WORDS, "--k", "4", "--memory", "1MB"], 2, "Use --memory"),
    "unreadable-memory": (["DATA", WORDS, "--k", "4", "--memory", "lots"], 2, "Write for example 2GiB"),
    "unknown-dtype": (["DATA", WORDS, "--dtype", "float23"], 2, "Did you mean 'float32'?"),
    "unknown-device": (["DATA", WORDS, "--k", "4", "--device", "cuda:7"], 2, "cannot be used here"),
    "unknown-output": (["DATA", "--output", "words"], 2, "expected auto, prompt, head"),
    "misspelt-flag": (["DATA", "--modle", "x"], 2, "No such option"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS, ids=str)
def test_mistaken_options_are_refused_with_one_message(case: str, llama_folder: Path, data_file: Path) -> None:
    arguments, code, message = BAD_OPTIONS[case]
    given = [str(data_file) if argument == "DATA" else argument for argument in arguments]
    assert_refused(run_cli("forecast", llama_folder, "--k", 4, *given), code, message)


def test_an_uncached_model_offline_names_the_built_in_ones(data_file: Path) -> None:
    assert_refused(run_cli("forecast", "smolm2", data_file, "--k", 4), 1, "Did you mean 'smollm2'?", "minilm")
    assert_refused(run_cli("forecast", "no/such-model", data_file, "--k", 4), 1, "hub cannot be reached", "smollm2")


def test_pickled_weights_are_refused_with_a_way_out(llama_folder: Path, data_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in llama_folder.iterdir():
        name = "pytorch_model.bin" if file.suffix == ".safetensors" else file.name
        (folder / name).write_bytes(file.read_bytes())
    assert_refused(run_cli("forecast", folder, data_file, WORDS, "--k", 4), 1, "pickle", "save_pretrained")


def test_csv_with_signature_and_quoted_newlines_is_read(llama_folder: Path, tmp_path: Path) -> None:
    lines = [f'"{row["text"]}\nit is",{row["label"]}\n' for row in many_rows()]
    file = tmp_path / "reviews.csv"
    file.write_bytes(b"\xef\xbb\xbf" + ("text,label\n" + "".join(lines)).encode())
    target = tmp_path / "k.json"
    options = ("--k", 4, "--test", 8, "--out", tmp_path / "run", "--json", target)
    result = run_cli("kernel", llama_folder, file, WORDS, *options)
    assert result.returncode == 0, result.stderr
    assert json.loads(target.read_text())["about"]["rows"] == 40


def test_a_long_text_is_cut_and_a_repeated_one_left_out(llama_folder: Path, tmp_path: Path) -> None:
    rows = many_rows()
    rows[0]["text"] = " ".join(["film"] * 200)
    rows.append(dict(rows[1]))
    file = tmp_path / "long.jsonl"
    write_jsonl(file, rows)
    result = run_cli("kernel", llama_folder, file, WORDS, "--k", 4, "--test", 60, "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    shown = " ".join(result.stdout.split())
    assert "1 of 40 texts were cut to fit; the prompt was kept whole" in shown
    assert "Left out 1 row repeating an earlier text" in shown


def test_an_unwritable_folder_is_refused_before_the_work(llama_folder: Path, data_file: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    result = run_cli("kernel", llama_folder, data_file, WORDS, "--k", 4, "--out", blocked / "run")
    assert_refused(result, 1, "Cannot write", "choose another name")


def test_a_full_disk_leaves_nothing_half_written(llama_folder: Path, data_file: Path, tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.fail("this test needs /dev/full")
    code = (
        "import foretune.store.arrays as a; from contextlib import contextmanager; real = a.replacing\n"
        "@contextmanager\n"
        "def full(file):\n"
        "    with real(file) as temporary:\n"
        "        temporary.unlink(); temporary.symlink_to('/dev/full'); yield temporary\n"
        "a.replacing = full\nfrom foretune.cli.main import main\nmain()"
    )
    out = tmp_path / "run"
    result = run_code(code, "kernel", llama_folder, data_file, WORDS, "--k", 4, "--out", out)
    assert_refused(result, 1, "The disk is full", "free some space")
    assert not list(out.rglob("*.npy*"))
    assert not (out / "kernels" / "sgd" / "kernel.zarr").exists()


TILES = """
import os, signal, time, foretune.kernels.folder as f, foretune.kernels.job as j
from foretune.kernels.memory_plan import TilePlan
j.Job.plan = lambda self, budget, arrays, parts=None: TilePlan(2, 3, 4, 99, 0)
write, written = f.KernelFolder.write_tile, []
def tile(self, name, values):
    write(self, name, values)
    written.append(name)
    {after}
f.KernelFolder.write_tile = tile
from foretune.cli.main import main
main()
"""


def _command(llama_folder: Path, data_file: Path, out: Path) -> tuple[object, ...]:
    return "kernel", llama_folder, data_file, WORDS, "--k", 4, "--test", 6, "--out", out


def test_a_killed_run_resumes_to_the_same_bits(llama_folder: Path, data_file: Path, tmp_path: Path) -> None:
    whole = run_code(TILES.format(after="pass"), *_command(llama_folder, data_file, tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    reference = ft.BlockKernel.open(tmp_path / "whole" / "kernels" / "sgd").array
    for tiles in (1, 4):
        command = _command(llama_folder, data_file, tmp_path / f"killed-{tiles}")
        killing = f"len(written) == {tiles} and os.kill(os.getpid(), signal.SIGKILL)"
        assert run_code(TILES.format(after=killing), *command).returncode == -signal.SIGKILL
        with pytest.raises(ft.ForetuneError, match="unfinished"):
            ft.BlockKernel.open(tmp_path / f"killed-{tiles}" / "kernels" / "sgd")
        assert len(list((tmp_path / f"killed-{tiles}" / "kernels" / "sgd" / "tiles").glob("*.npy"))) == tiles
        resumed = run_cli(*command)
        assert resumed.returncode == 0, resumed.stderr
        assert np.array_equal(ft.BlockKernel.open(tmp_path / f"killed-{tiles}" / "kernels" / "sgd").array, reference)


@pytest.mark.slow
def test_control_c_stops_cleanly_and_can_be_resumed(llama_folder: Path, data_file: Path, tmp_path: Path) -> None:
    arguments = map(str, _command(llama_folder, data_file, tmp_path / "run"))
    with subprocess.Popen(
        [sys.executable, "-c", TILES.format(after="time.sleep(0.3)"), *arguments], env=ENVIRONMENT, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, preexec_fn=interruptible,
    ) as process:  # fmt: skip
        end = time.monotonic() + 90
        while not list((tmp_path / "run" / "kernels" / "sgd" / "tiles").glob("*.npy")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Repeat the same command to go on where it stopped" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        ("OSError(9, 'Bad file descriptor')", 130, "Stopped. Repeat the same command"),
        ("StorageError('Cannot write x.')", 130, "Stopped. Repeat the same command"),
        (None, 1, "Error: cannot use standard output or a temporary file: Bad file descriptor"),
    ],
    ids=["library", "storage", "alone"],
)
def test_an_error_on_the_way_out_of_an_interruption_is_an_interruption(
    raised: str | None, code: int, said: str
) -> None:
    inside = f"""
    try:
        raise KeyboardInterrupt
    finally:
        raise {raised}
"""
    script = f"""
import sys
import foretune.cli.app
import foretune.cli.main as command
from foretune.errors import StorageError

def app(standalone_mode, prog_name):{inside if raised else " raise OSError(9, 'Bad file descriptor')"}

foretune.cli.app.app = app
sys.argv = ["foretune", "validate"]
command.main()
"""
    result = run_code(script)
    assert result.returncode == code
    assert not result.stdout
    assert result.stderr.startswith(said) and result.stderr.count("\n") == 1, result.stderr
