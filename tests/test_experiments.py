"""The experiments of the QPLayer paper: their data, their closed forms, and that each of them runs."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import importlib.util
import math
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "qplayer_paper"
sys.path.append(str(FOLDER))

import cart_pole  # noqa: E402
import denoising  # noqa: E402
import digits  # noqa: E402
import layer_solvers  # noqa: E402
import layer_times  # noqa: E402
import layers  # noqa: E402
import learning_rates  # noqa: E402
import sudoku  # noqa: E402
import sudoku_gradients  # noqa: E402
import sudoku_puzzles  # noqa: E402
import toy_gradients  # noqa: E402
from learning import float64_default  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n"
PEERS = [name for name, module in (("qplayer", "proxsuite"), ("qpth", "qpth")) if importlib.util.find_spec(module)]


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def assert_plotted(folder: Path, name: str) -> None:
    assert (folder / f"{name}.png").read_bytes().startswith(PNG)


# Data


def test_every_puzzle_with_one_solution_is_counted():
    solvable = sudoku_puzzles.solvable()
    boards = sudoku_puzzles.boards()
    assert len(np.unique(boards, axis=0)) == 288
    assert np.array_equal(boards[:12, :4], np.tile(np.arange(4), (12, 1)))
    assert sum(sudoku_puzzles.count().values()) == 13_579_680
    # No clue can be spared: every set with one cell less belongs to several boards. 85 632 is the literature's number.
    sets = np.arange(1 << 16)
    minimal = solvable.copy()
    for cell in range(16):
        minimal &= ~(((sets >> cell & 1) == 1) & solvable[:, sets & ~(1 << cell)])
    assert 24 * int(minimal.sum()) == 85_632
    # Some sets by hand: boards that agree on the cells, counted one by one.
    rng = np.random.default_rng(0)
    for mask in rng.integers(1 << 16, size=200):
        cells = [cell for cell in range(16) if mask >> cell & 1]
        for board in (0, 7):
            agreeing = sum(all(other[cell] == boards[board][cell] for cell in cells) for other in boards)
            assert solvable[board, mask] == (agreeing == 1)


def test_random_puzzles_differ_and_have_one_solution():
    puzzles, solutions = sudoku_puzzles.random_puzzles(3000, seed=1)
    assert len(np.unique(puzzles, axis=0)) == len(puzzles)
    boards = sudoku_puzzles.boards() + 1
    for puzzle, solution in zip(puzzles, solutions, strict=True):
        given = puzzle > 0
        (found,) = np.flatnonzero((boards[:, given] == puzzle[given]).all(axis=1))
        assert np.array_equal(boards[found], solution)
    # Shares within five standard deviations; drawing without repetition moves them by less.
    shares = np.array(list(sudoku_puzzles.CLUES.values()))
    counts = np.bincount((puzzles > 0).sum(axis=1), minlength=9)[4:]
    assert np.all(np.abs(counts / 3000 - shares) < 5 * np.sqrt(shares / 3000) + 0.01)
    one_hot = sudoku_puzzles.one_hot(puzzles)
    assert np.array_equal(one_hot.sum(axis=1), (puzzles > 0).sum(axis=1))


def test_training_puzzles_that_the_test_has_are_left_out(tmp_path):
    puzzles, solutions = sudoku_puzzles.random_puzzles(40, seed=0)
    # The test, the last four of forty, repeats two of the training set.
    puzzles[-2:], solutions[-2:] = puzzles[:2], solutions[:2]
    np.savez(tmp_path / "file.npz", puzzles=puzzles.reshape(-1, 4, 4), solutions=solutions.reshape(-1, 4, 4))
    train, test = sudoku.puzzles(sudoku.SudokuOptions(data=tmp_path / "file.npz"))
    assert len(train[0]) == 34 and len(test[0]) == 4
    assert not {row.numpy().tobytes() for row in train[0]} & {row.numpy().tobytes() for row in test[0]}
    # Generated ones do not repeat in the first place.
    train, test = sudoku.puzzles(sudoku.SudokuOptions(samples=900))
    assert len(torch.cat([train[0], test[0]]).unique(dim=0)) == 1000


def test_signals_have_the_statistics_of_the_published_ones():
    noisy, clean = denoising.signals(2000, seed=3)
    noise = noisy - clean
    # Standard errors: 10 / sqrt(2 * 200 000) = 0.016 and 10 / sqrt(200 000) = 0.022.
    assert abs(noise.std() - 10.0) < 0.1 and abs(noise.mean()) < 0.12
    assert clean.min() >= 10 and clean.max() <= 99 and np.array_equal(clean, np.round(clean))
    pieces = 1 + (np.diff(clean, axis=1) != 0).sum(axis=1)
    # 1 to 9, each 1/9 with a standard error of 0.007; neighbours of equal height, 1/90, look like one.
    assert pieces.min() == 1 and pieces.max() == 9
    assert np.all(np.abs(np.bincount(pieces, minlength=10)[1:] / 2000 - 1 / 9) < 0.04)
    assert not np.diff(clean, axis=1)[:, -1].any()


def test_digits_read_idx_files_and_refuse_others(tmp_path):
    write_mnist(tmp_path, 30)
    (images, labels), (tests, _) = digits.mnist(tmp_path)
    assert images.shape == (27, 16) and len(tests) == 3
    assert float(images.max()) <= 1.0 and set(labels.tolist()) <= set(range(10))
    with pytest.raises(FileNotFoundError, match="t10k-images"):
        digits.mnist(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    broken.write_bytes(b"\0\0\x08\x01\0\0\0\x05ab")
    with pytest.raises(ValueError, match="2 entries, expected 5"):
        digits.read_idx(broken)
    broken.write_bytes(b"PNG")
    with pytest.raises(ValueError, match="not an idx file"):
        digits.read_idx(broken)


def test_digits_learn_from_training_files_where_there_are_any(tmp_path):
    """MNIST as it is downloaded: gzipped, 28x28, training and test images in files of their own."""
    write_mnist(tmp_path, 200, part="train", side=28, zipped=True)
    write_mnist(tmp_path, 20, part="t10k", side=28, zipped=True, seed=1)
    (images, labels), (tests, test_labels) = digits.mnist(tmp_path)
    assert images.shape == (200, 784) and tests.shape == (20, 784)
    # The brightest pixel of an image is that of its label: images and labels are in step, rows in their order.
    assert torch.equal(images.argmax(1), labels) and torch.equal(tests.argmax(1), test_labels)
    assert float(images.max()) == 1.0
    digits.main(digits.DigitsOptions(out=tmp_path, mnist=tmp_path, epochs=6, rate=1e-2, models=("two_sided",)))
    rows = read(tmp_path / "mnist.csv")
    assert float(rows[-1]["test_loss"]) < math.log(10.0) - 0.2  # log 10 is that of a guess
    # Test images alone are split; labels without images are no data.
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    assert len(digits.mnist(tmp_path)[0][0]) == 18
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-images"):
        digits.mnist(tmp_path)


def write_mnist(
    folder: Path, count: int, *, part: str = "t10k", side: int = 4, zipped: bool = False, seed: int = 0
) -> None:
    """Images whose brightest pixel is that of their label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(10, size=count).astype(np.uint8)
    images = rng.integers(50, size=(count, side * side)).astype(np.uint8)
    images[np.arange(count), labels] = 255
    for name, entries, shape in (("images-idx3", images, (count, side, side)), ("labels-idx1", labels, (count,))):
        content = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes() + entries.tobytes()
        path = folder / f"{part}-{name}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)


def test_total_variation_of_one_jump_is_the_closed_form():
    """Without noise the two levels move towards each other by strength / length of the piece."""
    clean = torch.full((1, 100), 20.0).double()
    clean[:, 30:] = 50.0
    answer = layers.QpControl(eps=1e-9).solve(denoising.Filter("two_sided", 6.0)(clean))
    expected = clean.clone()
    expected[:, :30] += 6.0 / 30
    expected[:, 30:] -= 6.0 / 70
    torch.testing.assert_close(answer.x[:, :100].detach(), expected, rtol=0.0, atol=1e-7)


# Layers


def random_problem(*, two_sided: bool, nonnegative: bool) -> tuple[layers.Problem, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    F, x = normal(6, 6), torch.rand(6, generator=generator, dtype=torch.float64)
    A, C = normal(2, 6), normal(5, 6)
    u = C @ x + 0.1
    data = [normal(4, 6), F @ F.T + torch.eye(6), A, A @ x, C, u - 0.3, u]
    leaves = [value.clone().requires_grad_() for value in data]
    g, H, A, b, C, l, u = leaves
    return layers.Problem(g, H, A, b, C, l if two_sided else None, u, nonnegative), leaves


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("peer", PEERS)
def test_peers_get_the_same_problem(peer, two_sided, nonnegative):
    """Solutions and summed gradients of shared data; QPLayer's are right to about 1e-5."""
    problem, leaves = random_problem(two_sided=two_sided, nonnegative=nonnegative)
    with float64_default():
        found = []
        for name in ("qp-control", peer):
            answer = layers.LAYERS[name](eps=1e-9).solve(problem)
            assert float(layers.residuals(problem, answer).max()) < 1e-6
            found.append((answer.x, torch.autograd.grad(answer.x.square().sum(), leaves, allow_unused=True)))
    (x, gradients), (peer_x, peer_gradients) = found
    torch.testing.assert_close(peer_x, x, rtol=0.0, atol=1e-6)
    for ours, theirs in zip(gradients, peer_gradients, strict=True):
        if ours is not None and theirs is not None:
            torch.testing.assert_close(theirs, ours, rtol=0.0, atol=1e-3)


def test_residuals_see_what_is_wrong():
    problem, _ = random_problem(two_sided=True, nonnegative=True)
    answer = layers.QpControl(eps=1e-9).solve(problem)
    assert float(layers.residuals(problem, answer).max()) < 1e-9
    for name in ("x", "y", "z", "w", "shift"):
        wrong = dataclasses.replace(answer, **{name: getattr(answer, name).detach() + 0.1})
        assert float(layers.residuals(problem, wrong).max()) > 1e-3, name


# Experiments


def test_toy_gradients_equal_the_closed_forms(tmp_path):
    toy_gradients.main(toy_gradients.ToyOptions(out=tmp_path, points=13, peers=tuple(PEERS)))
    table = read(tmp_path / "toy_gradients_errors.csv")
    # QPLayer is good to 2e-4 but for the edge, where it gives a third for a half; qpth takes neither.
    for row in table:
        if row["solver"] != "qp-control" and row["problem"] != "edge":
            assert float(row["largest error"]) < 1e-3
    assert len({row["solver"] for row in table}) == 1 + len(PEERS)
    rows = [row for row in table if row["solver"] == "qp-control"]
    assert [(row["problem"], row["regime"]) for row in rows] == [
        ("crossing", "feasible"),
        ("crossing", "infeasible"),
        ("interior", "feasible"),
        ("edge", "feasible"),
        ("edge", "infeasible"),
    ]
    # A handful of operations on numbers of size one.
    assert all(float(row["largest error"]) < 1e-12 for row in rows)
    assert_plotted(tmp_path, "toy_gradients")
    start, end, before, after = toy_gradients.descent("qp-control", 0, 40)
    assert start < 1.55 < end and after < before


def test_layer_times_tell_residuals_and_ratios(tmp_path, monkeypatch):
    # One cell of the six, and ours alone: the peers are slow to start, and tested with the benchmarks.
    ours_alone = ([layer_solvers.Ours("qp-control", 1)], [])
    monkeypatch.setattr(layer_solvers, "layers", lambda threads: ours_alone)
    monkeypatch.setitem(layer_times.PUBLISHED, "forward", {(1, 100, 50, 100): ""})
    for part in ("jacobians", "forward"):
        options = layer_times.TimesOptions(out=tmp_path, part=part, n=4, batches=(1,), clock="process", repeats=1)
        layer_times.main(options)
        rows = read(tmp_path / f"layer_times_{part}.csv")
        ours = [row for row in rows if row["solver"] == "qp-control"]
        assert len(ours) == 1 and ours[0]["failures"] == "0"
        assert float(ours[0]["residual"]) <= 1e-3 and float(ours[0]["forward_ms"]) > 0.0
        assert_plotted(tmp_path, f"layer_times_{part}")


def sudoku_options(folder: Path, **options: object) -> sudoku.SudokuOptions:
    chosen = {"samples": 36, "batch": 12, "epochs": 2, "models": ("linear_program",), "out": folder} | options
    return sudoku.SudokuOptions(**chosen)


@pytest.mark.parametrize("task", ["feasible", "infeasible"])
def test_sudoku_learns_and_resumes_to_the_same_numbers(task, tmp_path):
    sudoku.main(sudoku_options(tmp_path / "whole", task=task))
    sudoku.main(sudoku_options(tmp_path / "parts", task=task, epochs=1))
    sudoku.main(sudoku_options(tmp_path / "parts", task=task, resume=True))
    whole, parts = (read(tmp_path / folder / f"sudoku_{task}.csv") for folder in ("whole", "parts"))
    untimed = [{key: row[key] for key in row if not key.endswith("_ms")} for row in whole]
    assert untimed == [{key: row[key] for key in row if not key.endswith("_ms")} for row in parts]
    assert [row["epoch"] for row in whole] == ["0", "1", "2"]
    # The products of multipliers and slacks come on top of the tolerance, 1e-6.
    assert all(float(row["residual"]) < 1e-5 and row["failures"] == "0" for row in whole[1:])
    assert float(whole[-1]["train_loss"]) < float(whole[1]["train_loss"])
    assert_plotted(tmp_path / "whole", f"sudoku_{task}")
    if task == "infeasible":
        assert_plotted(tmp_path / "whole", "sudoku_infeasible_violation")


def test_sudoku_on_the_models_that_peers_can_take(tmp_path):
    sudoku.main(sudoku_options(tmp_path, models=("strictly_convex",), peers=tuple(PEERS), peer_batches=1, epochs=1))
    sudoku.main(sudoku_options(tmp_path, task="infeasible", models=("relaxed",), epochs=1))
    rows = read(tmp_path / "sudoku_feasible.csv")
    assert len({row["solver"] for row in rows if row["epoch"] == "1"}) == 1 + len(PEERS)
    assert all(float(row["residual"]) < 1e-4 for row in rows if row["epoch"] == "1")
    with pytest.raises(ValueError, match="infeasible task"):
        sudoku.main(sudoku_options(tmp_path, models=("relaxed",)))


def test_denoising_learns(tmp_path):
    options = denoising.DenoisingOptions(out=tmp_path, samples=18, batch=9, epochs=3, rate=1e-4, strengths=(13.0,))
    denoising.main(options)
    rows = read(tmp_path / "denoising.csv")
    by_hand = float(read(tmp_path / "denoising_by_hand.csv")[0]["test_loss"])
    for model in ("two-sided", "one-sided"):
        of_model = [row for row in rows if row["model"] == model]
        # Learning starts from total variation, up to the small cost of its slacks.
        assert float(of_model[0]["test_loss"]) == pytest.approx(by_hand, rel=1e-3)
        losses = [float(row["train_loss"]) for row in of_model[1:]]
        assert losses[2] < losses[1] < losses[0]
    assert_plotted(tmp_path, "denoising")


def test_digits_learn_from_idx_files(tmp_path):
    write_mnist(tmp_path, 120)
    digits.main(digits.DigitsOptions(out=tmp_path, mnist=tmp_path, epochs=12, rate=3e-2, hidden=20))
    for model in ("two-sided", "one-sided"):
        rows = [row for row in read(tmp_path / "mnist.csv") if row["model"] == model]
        assert float(rows[-1]["train_loss"]) < 0.5 * float(rows[1]["train_loss"])
    assert_plotted(tmp_path, "mnist")


def test_digits_of_scikit_learn():
    pytest.importorskip("sklearn")
    (images, labels), (tests, _) = digits.embedded()
    assert images.shape == (1500, 64) and tests.shape == (297, 64)
    assert float(images.min()) == 0.0 and float(images.max()) == 1.0
    assert labels.bincount().min() > 100


def test_cart_pole_is_that_of_contact_dynamics():
    """Sticking, sliding and spinning states; the pole of the URDF has an inertia of 1e-12 that the other has not, which
    beside 0.025 kg m^2 makes up to 1e-9."""
    options = cart_pole.CartPoleOptions()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 4, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.3, 0.3])
    u = 2.0 * torch.randn(20, generator=generator, dtype=torch.float64)
    x[0], u[0] = torch.tensor([0.0, math.pi, 0.0, 0.0], dtype=torch.float64), 0.5
    layer = layers.QpControl(eps=1e-10)
    ours, theirs = (kind(options).step(layer, x, u) for kind in (cart_pole.CartPole, cart_pole.ContactCartPole))
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-8)
    # Half a newton does not overcome friction of one.
    assert float(ours[0, 2:].abs().max()) < 1e-12
    free = cart_pole.CartPole(dataclasses.replace(options, cart_friction=0.0, pole_friction=0.0))
    assert float(free.step(layer, x, u)[0, 2]) == pytest.approx(0.05 * 0.5 / 1.0, rel=1e-9)


def test_cart_pole_learns_alike_with_every_solver(tmp_path):
    peers = tuple(PEERS)
    cart_pole.main(cart_pole.CartPoleOptions(out=tmp_path, epochs=8, rate=1.0, peers=peers, peer_epochs=3))
    rows = read(tmp_path / "cart_pole.csv")
    losses: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        losses.setdefault((row["solver"], row["model"]), []).append(float(row["loss"]))
    assert len(losses) == 2 + len(PEERS)
    ours = losses["qp-control", "layer"]
    assert len(ours) == 8 and ours[-1] < ours[0]
    for (solver, _), found in losses.items():
        # Impulses are good to 1e-6, the state after 20 steps to 1e-4; Adam's steps enlarge errors of small gradients.
        assert found[0] == pytest.approx(ours[0], rel=1e-4)
        assert found[:3] == pytest.approx(ours[:3], rel=1e-8 if solver == "qp-control" else 1e-2)
    means = {(row["solver"], row["model"]): float(row["loss"]) for row in read(tmp_path / "cart_pole_losses.csv")}
    assert means == {run: pytest.approx(statistics.fmean(found)) for run, found in losses.items()}
    assert_plotted(tmp_path, "cart_pole")


def test_large_rates_end_no_run(tmp_path):
    write_mnist(tmp_path, 60)
    peers = tuple(PEERS)
    options = learning_rates.RatesOptions(
        out=tmp_path, data=tmp_path, rates=(1.0, 1e-2), seeds=2, epochs=2, peers=peers, peer_seeds=1
    )
    learning_rates.main(options)
    every = read(tmp_path / "learning_rates_digits.csv")
    rows = [row for row in every if row["solver"] == "qp-control"]
    assert len(rows) == 4 and all(row["runs"] == "2" and row["failed"] == "0" for row in rows)
    # Peers run once for each rate and model that they can take.
    assert {row["runs"] for row in every if row["solver"] != "qp-control"} <= {"1"}
    assert sum(row["solver"] == "qpth" for row in every) == (2 if "qpth" in PEERS else 0)
    assert_plotted(tmp_path, "learning_rates_digits")


def test_a_run_that_diverges_is_counted(tmp_path):
    """A rate that sends the numbers to infinity is no fault of the solver, and yet a run that fails."""
    options = learning_rates.RatesOptions(out=tmp_path, task="denoising", rates=(1e300,), seeds=1, epochs=2, samples=9)
    learning_rates.main(options)
    assert all(row["failed"] == "1" for row in read(tmp_path / "learning_rates_denoising.csv"))


def test_commands_take_options(tmp_path):
    words = ["--task", "infeasible", "--samples", "9", "--epochs", "1", "--models", "linear_program", "--seed", "3"]
    command = [sys.executable, "-W", "error", str(FOLDER / "sudoku.py"), *words, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "10 puzzles, 10 different" in done.stdout
    assert "wrong boards in the last" in done.stdout
    assert {row["seed"] for row in read(tmp_path / "sudoku_infeasible.csv")} == {"3"}


def test_every_experiment_is_documented_with_its_command():
    page = (FOLDER.parents[1] / "docs" / "experiments.md").read_text()
    programs = [path for path in FOLDER.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()]
    assert len(programs) == 8
    for path in programs:
        assert f"examples/qplayer_paper/{path.name}" in page, path.name


@pytest.mark.parametrize("task", ["feasible", "infeasible"])
def test_gradients_of_sudoku_are_derivatives(tmp_path, task):
    sudoku_gradients.main(
        sudoku_gradients.GradientOptions(out=tmp_path, task=task, samples=90, batch=30, at=(0, 1), tolerances=(1e-6,))
    )
    rows = read(tmp_path / f"sudoku_gradients_{task}.csv")
    assert [row["step"] for row in rows] == ["0", "1"]
    # What differences over 2e-7 leave of a loss of about one.
    assert all(float(row["largest_error"]) < 1e-5 and row["other_sign"] == "0" for row in rows)
