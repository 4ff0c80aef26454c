"""The examples run as commands, and their fitted slopes are the paper's (Malladi et al. 2023, Appendix D)."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command_line import ENVIRONMENT

EXAMPLES = Path(__file__).parent.parent / "examples"
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Run:
    """What an example printed, as table rows by their first two cells, and the file of its picture."""

    rows: dict[tuple[str, str], list[str]]
    picture: Path

    def slope(self, quantity: str, against: str) -> float:
        """The fitted slope of a printed law."""
        return float(self.rows[quantity, against][1])


def finished(name: str, folder: Path) -> Run:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--quick", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    return Run({(first, second): rest for first, second, *rest in lines}, folder / f"{name}.png")


@pytest.fixture(scope="module")
def linear_network(tmp_path_factory: pytest.TempPathFactory):
    return finished("mup_linear_network", tmp_path_factory.mktemp("linear"))


@pytest.fixture(scope="module")
def natural_tasks(tmp_path_factory: pytest.TempPathFactory):
    return finished("natural_tasks", tmp_path_factory.mktemp("natural"))


@pytest.mark.parametrize("rule", ["SGD", "SignGD", "smooth SignGD"])
def test_fine_tuning_of_the_linear_network_follows_the_kernel_with_an_error_of_second_order(linear_network, rule):
    assert linear_network.slope(f"{rule}: movement", "chi") == pytest.approx(1, abs=0.1)
    assert linear_network.slope(f"{rule}: error of one step", "chi") == pytest.approx(2, abs=0.01)
    assert linear_network.slope(f"{rule}: error", "chi") == pytest.approx(2, abs=0.3)
    assert linear_network.slope(f"{rule}: features", "chi") == pytest.approx(2, abs=0.3)
    assert linear_network.slope(f"{rule}: movement", "n") == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("rule", ["SGD", "SignGD", "smooth SignGD"])
def test_with_chi_that_falls_with_the_width_fine_tuning_becomes_linear(linear_network, rule):
    assert linear_network.slope(f"{rule}: error / movement, chi = n^-1/2", "n") == pytest.approx(-0.5, abs=0.2)


@pytest.mark.parametrize("rule", ["SGD", "SignGD", "smooth SignGD"])
def test_pre_training_stays_non_linear_at_every_width_from_its_second_step_on(linear_network, rule):
    assert linear_network.slope(f"{rule}: non-linear part, pre-training step 1", "n") == pytest.approx(-0.5, abs=0.2)
    assert linear_network.slope(f"{rule}: non-linear part, pre-training step 2", "n") == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("row", ["start", "update", "SGD rate", "SignGD rate"])
def test_table_10_is_found_again_on_the_same_networks(linear_network, row):
    cells = next([first, *rest] for (name, first), rest in linear_network.rows.items() if name == row)
    for cell in cells:
        expected, fitted = map(float, cell.split(":"))
        assert fitted == pytest.approx(expected, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["SGD", "SignGD"])
def test_the_more_natural_a_task_is_the_more_linear_is_fine_tuning_and_the_less_the_kernel_moves(natural_tasks, rule):
    assert natural_tasks.slope(f"{rule}: gap", "chi") > 0.5
    assert natural_tasks.slope(f"{rule}: features", "chi") > 0.3


@pytest.mark.parametrize("name", ["linear_network", pytest.param("natural_tasks", marks=pytest.mark.slow)])
def test_an_example_writes_its_picture(name, request):
    assert request.getfixturevalue(name).picture.read_bytes().startswith(PNG)
