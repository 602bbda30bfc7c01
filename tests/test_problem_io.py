"""Problems as npz files without pickles: what goes in comes out, and what is not such a file is refused
clearly."""

import io
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from problems import random_feasible, random_infeasible_rank_deficient, toy_linear
from qp_data import DATA

import qp_control as qc


@pytest.mark.parametrize(
    "qp",
    [random_feasible(0, 5, 2, 4, box=True), random_infeasible_rank_deficient(1), toy_linear(0.5)],
    ids=range(3),
)
def test_saved_problem_comes_back_bit_for_bit(tmp_path, qp):
    path = tmp_path / "problem.npz"
    qc.save_problem(path, **qp.arguments())
    loaded = dict(qc.load_problem(path))
    for name in DATA:
        value = getattr(qp, name)
        if value is None:
            assert loaded.get(name) is None
        else:
            assert np.array_equal(loaded[name], value)
            assert loaded[name].dtype == np.float64


def test_loaded_problem_can_be_solved_at_once(tmp_path):
    qp = random_feasible(0, 5, 2, 4, box=True)
    qc.save_problem(tmp_path / "problem.npz", **qp.arguments())
    loaded = qc.load_problem(tmp_path / "problem.npz")
    sol = qc.solve_qp(**{name: loaded[name] for name in DATA if loaded.get(name) is not None})
    assert np.array_equal(sol.x, qc.solve_qp(**qp.keywords()).x)


def test_batched_and_bad_data_can_be_saved(tmp_path):
    """The file is for failures: NaN, infinities and batches go in as they are."""
    g = np.array([[1.0, np.nan], [np.inf, 0.0]])
    qc.save_problem(tmp_path / "bad.npz", H=np.eye(2), g=g, lb=[-np.inf, 0.0])
    loaded = qc.load_problem(tmp_path / "bad.npz")
    np.testing.assert_array_equal(loaded["g"], g)
    np.testing.assert_array_equal(loaded["lb"], [-np.inf, 0.0])


def test_file_holds_no_pickles(tmp_path):
    qc.save_problem(tmp_path / "problem.npz", **toy_linear(0.5).arguments())
    with np.load(tmp_path / "problem.npz", allow_pickle=False) as archive:
        for name in archive.files:
            assert archive[name].dtype != object


@pytest.mark.parametrize("name", ["with space.npz", "übung_θ.npz", "deep.name.npz"])
def test_odd_file_names_work(tmp_path, name):
    for path in (tmp_path / name, str(tmp_path / ("s" + name))):
        qc.save_problem(path, H=np.eye(2), g=np.ones(2))
        assert os.path.exists(path)
        np.testing.assert_array_equal(qc.load_problem(path)["g"], np.ones(2))


def test_missing_file_is_reported_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        qc.load_problem(tmp_path / "nothing.npz")


@pytest.mark.parametrize("keep", [0, 10, 100, 0.5, 0.95])
def test_truncated_file_is_refused_with_its_name(tmp_path, keep):
    whole = tmp_path / "whole.npz"
    qc.save_problem(whole, **random_feasible(0, 20, 5, 20).arguments())
    content = whole.read_bytes()
    cut = tmp_path / "truncated.npz"
    cut.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"truncated\.npz"):
        qc.load_problem(cut)


def test_damaged_file_is_refused_with_its_name(tmp_path):
    path = tmp_path / "damaged.npz"
    qc.save_problem(path, **random_feasible(0, 20, 5, 20).arguments())
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(255 - byte for byte in content[middle : middle + 64])
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"damaged\.npz"):
        qc.load_problem(path)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 nor this"])
def test_file_of_another_kind_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.npz"):
        qc.load_problem(path)


@pytest.mark.parametrize("name", ["notes.txt", "table.csv", "bomb.npz", "zip.npz"])
def test_nobody_is_told_to_allow_pickles(tmp_path, name):
    path = tmp_path / name
    path.write_text("weights of the run: 1.0\n" * 20)
    if name == "bomb.npz":
        np.savez(path, H=np.array([{}]), g=np.array([{}]), allow_pickle=True)
    elif name == "zip.npz":  # text in front of an archive
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("g.npy", "none")
    with pytest.raises(qc.ProblemFileError, match=re.escape(name)) as caught:
        qc.load_problem(path)
    shown = caught.value
    while shown is not None:  # the errors of a traceback
        assert "pickle" not in str(shown) and "unsafe" not in str(shown)
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)


def test_every_damage_is_a_problem_file_error(tmp_path):
    path, generator = tmp_path / "damaged.npz", np.random.default_rng(0)
    qc.save_problem(path, H=np.eye(2), g=np.ones(2))
    whole, refused = path.read_bytes(), 0
    for _ in range(500):
        content = bytearray(whole)
        for place in generator.integers(len(content), size=3):
            content[place] = generator.integers(256)
        path.write_bytes(bytes(content))
        try:
            qc.load_problem(path)
        except qc.ProblemFileError:
            refused += 1
    assert refused > 400


def test_single_array_file_is_refused(tmp_path):
    np.save(tmp_path / "array.npy", np.eye(2))
    with pytest.raises(ValueError, match=r"array\.npy"):
        qc.load_problem(tmp_path / "array.npy")


def test_archive_with_other_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", weight=np.eye(2))
    with pytest.raises(ValueError, match=r"weights\.npz"):
        qc.load_problem(tmp_path / "weights.npz")


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["QP_CONTROL_BOMB"],))


def test_pickled_content_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.setenv("QP_CONTROL_BOMB", str(tmp_path / "exploded"))
    array = np.empty(1, dtype=object)
    array[0] = Bomb()
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("H.npy", buffer.getvalue())
        archive.writestr("g.npy", buffer.getvalue())
    with pytest.raises(ValueError, match=r"bomb\.npz"):
        loaded = qc.load_problem(tmp_path / "bomb.npz")
        _ = loaded["H"]
    assert not (tmp_path / "exploded").exists()
    pickle.loads(pickle.dumps(array))  # the control: unpickling it does run
    assert (tmp_path / "exploded").exists()


def test_unknown_argument_is_refused(tmp_path):
    with pytest.raises((TypeError, ValueError), match="Q"):
        qc.save_problem(tmp_path / "problem.npz", Q=np.eye(2), g=np.ones(2))


@pytest.mark.parametrize("given", [{}, {"H": np.eye(2)}, {"g": None}, {"A": np.eye(2), "b": np.ones(2)}])
def test_too_few_arrays_for_a_problem_are_refused_and_nothing_is_written(tmp_path, given):
    with pytest.raises(ValueError, match="expected g at least, or A and B of an optimal-control QP"):
        qc.save_problem(tmp_path / "problem.npz", **given)
    assert not list(tmp_path.iterdir())


def test_tensors_of_any_kind_are_saved(tmp_path):
    H = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    loaded = qc.load_problem(qc.save_problem(tmp_path / "problem.npz", H=H, g=torch.ones(2)))
    np.testing.assert_array_equal(loaded["H"], H.detach().double().numpy())


def test_saving_where_it_cannot_be_is_an_error_that_names_the_place(tmp_path):
    with pytest.raises(OSError, match="missing"):
        qc.save_problem(tmp_path / "missing" / "problem.npz", H=np.eye(2), g=np.ones(2))
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(OSError, match="taken"):
        qc.save_problem(tmp_path / "taken" / "problem.npz", H=np.eye(2), g=np.ones(2))


def test_failed_save_leaves_the_previous_file_alone(tmp_path):
    path = tmp_path / "problem.npz"
    qc.save_problem(path, H=np.eye(2), g=np.ones(2))
    with pytest.raises((TypeError, ValueError)):
        qc.save_problem(path, H=np.eye(2), g=np.array([object(), None]))
    np.testing.assert_array_equal(qc.load_problem(path)["g"], np.ones(2))


@pytest.mark.parametrize("horizon", [2.5, 0, np.nan, [2, 3]])
def test_horizon_that_is_none_is_neither_written_nor_read(tmp_path, horizon):
    with pytest.raises(ValueError, match=r"horizon is .*, expected an integer of at least 1"):
        qc.save_problem(tmp_path / "ocp.npz", A=[[1.0]], B=[[1.0]], horizon=horizon)
    np.savez(tmp_path / "ocp.npz", A=np.eye(1), B=np.eye(1), horizon=np.asarray(horizon, dtype=float))
    with pytest.raises(qc.ProblemFileError, match=r"horizon is .*, expected an integer of at least 1"):
        qc.load_problem(tmp_path / "ocp.npz")
