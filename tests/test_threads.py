"""Threads change the time and nothing else: same bits, forked children, callers on several threads,
Ctrl-C."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import types

import numpy as np
import pytest
import torch
from problems import random_feasible, random_infeasible_full_rank, random_infeasible_rank_deficient
from qp_data import DATA

import qp_control as qc

FIELDS = (
    "x",
    "y",
    "z",
    "w",
    "s_eq",
    "s_lower",
    "s_upper",
    "s_lb",
    "s_ub",
    "objective",
    "status",
    "iterations",
)


# The first is solved in lanes, the second is not.
SIZES = pytest.mark.parametrize("n", [8, 40])


def mixed_batch(n, size=37):
    """Feasible elements with every seventh one infeasible, of these every other one linear or with a diagonal H, and
    every eleventh linear; an odd size leaves a rest in every split."""
    qps = [random_feasible(seed, n, 2, 6, box=True) for seed in range(size)]
    batch = {name: np.stack([getattr(qp, name) for qp in qps]) for name in DATA}
    batch["l"][::7, 0], batch["u"][::7, 0] = 2.0, -2.0
    batch["H"][7::28] = np.eye(n)
    for linear in (slice(5, None, 11), slice(21, None, 28)):
        batch["H"][linear] = 0.0
        batch["lb"][linear], batch["ub"][linear] = -9.0, 9.0
    batch["g"][21::28] = 0.0  # many solutions, and a singular system behind their derivatives
    return batch


@SIZES
@pytest.mark.parametrize("threads", [2, 3, 8, 0])
def test_thread_count_does_not_change_a_bit(threads, n):
    batch = mixed_batch(n)
    one = qc.solve_qp(**batch, settings=qc.Settings(infeasible="closest", threads=1))
    many = qc.solve_qp(**batch, settings=qc.Settings(infeasible="closest", threads=threads))
    for name in FIELDS:
        assert np.array_equal(getattr(one, name), getattr(many, name)), name
    assert {qc.Status.SOLVED, qc.Status.CLOSEST_FEASIBLE} == set(one.status.tolist())


@SIZES
@pytest.mark.parametrize("threads", [2, 3, 8, 0])
def test_thread_count_does_not_change_a_bit_of_the_gradients(threads, n):
    """Shared data included: its sum over the batch is taken in a fixed order."""

    def run(count):
        batch = {name: torch.tensor(value) for name, value in mixed_batch(n, 101).items()}
        for name in ("H", "C", "ub"):
            batch[name] = batch[name][1].clone()
        for tensor in batch.values():
            tensor.requires_grad_()
        out = qc.QPLayer(qc.Settings(threads=count))(*(batch[name] for name in DATA))
        loss = sum(torch.nansum(output * output) for output in out[:10])
        return torch.autograd.grad(loss, [batch[name] for name in DATA])

    for one, many in zip(run(1), run(threads), strict=True):
        assert torch.count_nonzero(one) and torch.equal(one, many)


@SIZES
def test_thread_count_and_order_of_the_batch_do_not_change_a_bit_of_the_tangents(n):
    batch = mixed_batch(n, 21)
    rng = np.random.default_rng(0)
    change = {f"d{name}": np.where(np.isfinite(v), rng.normal(size=v.shape), 0.0) for name, v in batch.items()}

    def run(rows, threads):
        settings = qc.Settings(infeasible="closest", threads=threads)
        picked = {name: value[rows] for name, value in batch.items()}
        solution = qc.solve_qp(**picked, settings=settings)
        moved = {name: value[rows] for name, value in change.items()}
        return qc.qp_tangent(**picked, solution=solution, settings=settings, **moved)

    everything = run(slice(None), 1)
    for rows, threads in ((slice(None), 3), (rng.permutation(21), 2), (slice(3, 8), 1), (slice(7, 8), 1)):
        found = run(rows, threads)
        for name in FIELDS[:10]:
            assert np.array_equal(getattr(found, name), getattr(everything, name)[rows]), name


@SIZES
@pytest.mark.parametrize("weakly_active", ["least_squares", "smoothed"])
def test_order_size_and_neighbours_of_the_batch_do_not_change_a_bit_of_layer_and_gradients(weakly_active, n):
    """Infeasible elements and linear programs too, which leave the lanes; any element alone included."""
    batch = mixed_batch(n, 24)
    rng = np.random.default_rng(0)
    settings = qc.Settings(threads=2, weakly_active=weakly_active)

    def run(rows):
        data = {name: torch.tensor(value[rows], requires_grad=True) for name, value in batch.items()}
        out = qc.QPLayer(settings)(*(data[name] for name in DATA))
        loss = sum(torch.nansum(output * output) for output in out[:10])
        return [*(t.detach() for t in out), *torch.autograd.grad(loss, [data[name] for name in DATA])]

    everything = run(slice(None))
    for rows in (rng.permutation(24), slice(3, 20), *(slice(k, k + 1) for k in range(24))):
        for found, expected in zip(run(rows), everything, strict=True):
            assert torch.equal(found, expected[rows])


@SIZES
def test_order_of_the_batch_does_not_change_a_bit(n):
    batch = mixed_batch(n, 20)
    order = np.random.default_rng(0).permutation(20)
    settings = qc.Settings(infeasible="closest")
    plain = qc.solve_qp(**batch, settings=settings)
    mixed = qc.solve_qp(**{name: value[order] for name, value in batch.items()}, settings=settings)
    for name in FIELDS:
        assert np.array_equal(getattr(plain, name)[order], getattr(mixed, name)), name


@SIZES
def test_warm_started_elements_have_the_same_bits_in_any_batch(n):
    """Good and far-off starts side by side."""
    batch = mixed_batch(n, 21)
    rng = np.random.default_rng(0)
    cold = qc.solve_qp(**batch, settings=qc.Settings(infeasible="closest"))
    starts = {name: getattr(cold, name).copy() for name in "xyzw"}
    for value in starts.values():
        value[::3] += rng.normal(size=value[::3].shape)
        value[1::5] = 1e9

    def run(rows, threads):
        picked = {name: value[rows] for name, value in batch.items()}
        start = types.SimpleNamespace(**{name: value[rows] for name, value in starts.items()})
        return qc.solve_qp(**picked, settings=qc.Settings(infeasible="closest", threads=threads), warm_start=start)

    everything = run(slice(None), 1)
    for rows, threads in ((slice(None), 3), (rng.permutation(21), 2), *((slice(k, k + 1), 1) for k in range(21))):
        found = run(rows, threads)
        for name in FIELDS:
            assert np.array_equal(getattr(found, name), getattr(everything, name)[rows]), name


@SIZES
@pytest.mark.parametrize("shared", DATA)
def test_sharing_an_argument_changes_no_bit(shared, n):
    """Against the same data given to each element: outputs, and the gradients of the others."""
    batch = mixed_batch(n, 21)
    settings = qc.Settings(infeasible="closest", threads=2)
    results = []
    for value in (batch[shared][0], np.stack([batch[shared][0]] * 21)):
        arguments = batch | {shared: value}
        solution = qc.solve_qp(**arguments, settings=settings)
        loss = np.where(np.isnan(solution.x), 0.0, 1.0)
        results.append((solution, qc.qp_adjoint(**arguments, solution=solution, settings=settings, x=loss, w=loss)))
    (one, one_gradient), (each, each_gradient) = results
    for name in FIELDS:
        assert np.array_equal(getattr(one, name), getattr(each, name), equal_nan=True), name
    for name in DATA:
        if name != shared:
            assert np.array_equal(getattr(one_gradient, name), getattr(each_gradient, name)), name


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_sizes_of_zero_work_with_any_thread_count(threads):
    settings = qc.Settings(threads=threads)
    assert qc.solve_qp(np.eye(2), np.zeros((0, 2)), settings=settings).x.shape == (0, 2)
    assert qc.solve_qp(np.zeros((0, 0)), np.zeros((5, 0)), settings=settings).x.shape == (5, 0)
    assert qc.solve_qp(np.eye(2), np.zeros((1, 2)), settings=settings).x.shape == (1, 2)


def test_eight_calling_threads_get_the_serial_results():
    """8 threads x 1000 solves in lanes and beyond, while each solve may itself use threads."""
    qps = [random_feasible(seed, n, 1, 5) for seed in range(4) for n in (6, 30)]
    qps += [random_infeasible_full_rank(0), random_infeasible_rank_deficient(0)]
    settings = qc.Settings(infeasible="closest", threads=2)
    serial = [qc.solve_qp(**qp.keywords(), settings=settings).x for qp in qps]
    differences = []

    def work(offset):
        for k in range(1000):
            index = (offset + k) % len(qps)
            x = qc.solve_qp(**qps[index].keywords(), settings=settings).x
            if not np.array_equal(x, serial[index]):
                differences.append((offset, k))

    workers = [threading.Thread(target=work, args=(offset,)) for offset in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert not worker.is_alive()
    assert not differences


def run_script(body, timeout=60):
    """Runs a script in a process of its own, so that a crash or a hang is one failed test."""
    here = os.path.dirname(os.path.abspath(__file__))
    code = f"import sys; sys.path.insert(0, {here!r})\n" + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout)


def test_forked_child_works_after_the_parent_used_threads():
    done = run_script(
        """
        import os
        import numpy as np
        import qp_control as qc
        from problems import random_feasible
        qp = random_feasible(0, 10, 3, 10)
        g = np.stack([qp.g] * 64)
        arguments = qp.arguments() | {"g": g}
        settings = qc.Settings(threads=4)
        parent = qc.solve_qp(**arguments, settings=settings).x
        child = os.fork()
        if child == 0:
            same = np.array_equal(qc.solve_qp(**arguments, settings=settings).x, parent)
            os._exit(0 if same else 7)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
        assert np.array_equal(qc.solve_qp(**arguments, settings=settings).x, parent)
        print("both answered")
        """
    )
    assert done.returncode == 0, done.stderr
    assert "both answered" in done.stdout


def test_forked_data_loader_workers_can_solve_and_differentiate():
    done = run_script(
        """
        import torch
        import qp_control as qc
        torch.set_num_threads(1)
        layer = qc.QPLayer(qc.Settings(threads=2))
        H = torch.eye(3, dtype=torch.float64)
        def solve(k):
            g = torch.full((8, 3), float(k), dtype=torch.float64, requires_grad=True)
            x = layer(H, g, lb=-torch.ones(3, dtype=torch.float64)).x
            x.sum().backward()
            return x.detach(), g.grad
        solve(1)  # the parent has used its threads
        class Data(torch.utils.data.Dataset):
            def __len__(self): return 6
            def __getitem__(self, k): return solve(k)
        options = {"num_workers": 2, "multiprocessing_context": "fork", "timeout": 30}
        xs = [x for x, _ in torch.utils.data.DataLoader(Data(), **options)]
        assert len(xs) == 6 and torch.all(xs[0] == 0), xs
        assert torch.allclose(xs[5], -torch.ones(3, dtype=torch.float64)), xs[5]
        print("workers answered")
        """
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "workers answered" in done.stdout


def test_process_ends_quietly_after_threads_were_used():
    done = run_script(
        """
        import numpy as np
        import qp_control as qc
        qc.solve_qp(np.eye(4), np.ones((256, 4)), settings=qc.Settings(threads=8))
        """
    )
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize(
    "call",
    [
        "qc.solve_qp(**(arguments | {'g': g}), settings=qc.Settings(threads=1))",
        "qc.solve_qps([arguments | {'g': g[k]} for k in range(3000)] + [small], settings=qc.Settings(threads=1))",
        "qc.solve_qps([arguments | {'g': g[k]} for k in range(3000)] + [small], settings=qc.Settings(threads=2))",
    ],
    ids=["batch", "list", "list over threads"],
)
def test_keyboard_interrupt_stops_a_long_batch(call):
    """A batch of about ten seconds or more must end within a few seconds of Ctrl-C, as KeyboardInterrupt."""
    script = f"""
        import signal
        import numpy as np
        import qp_control as qc
        from problems import random_feasible
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        small = random_feasible(0, 3).arguments()
        qp = random_feasible(0, 150, 40, 150, active=0.5)
        rng = np.random.default_rng(0)
        g = qp.g + 0.1 * rng.normal(size=(20000, 150))
        arguments = qp.arguments()
        print("ready", flush=True)
        try:
            {call}
            print("finished", flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    here = os.path.dirname(os.path.abspath(__file__))
    code = f"import sys; sys.path.insert(0, {here!r})\n" + textwrap.dedent(script)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().strip() == "ready"
        threading.Timer(1.0, process.send_signal, [signal.SIGINT]).start()
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert output.strip() == "interrupted"
