"""The layer where training puts it: autocast, checkpointing, threads, processes, DDP, copies, graphs that are kept."""

import copy
import gc
import os
import pickle
import threading
import weakref

import numpy as np
import pytest
import torch
from layer_calls import call, gradients, loss_of, tensors
from problems import random_feasible, random_infeasible_full_rank
from qp_data import DATA
from test_threads import run_script
from torch.utils.checkpoint import checkpoint

import qp_control as qc


class Network(torch.nn.Module):
    """Predicts g, and shares A and b among the batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 4)
        self.A = torch.nn.Parameter(torch.tensor([[1.0, -1.0, 0.5, 0.0]]))
        self.b = torch.nn.Parameter(torch.ones(1))
        self.layer = qc.QPLayer(qc.Settings(threads=1))

    def forward(self, inputs):
        return self.layer(torch.eye(4), self.linear(inputs), self.A, self.b, lb=torch.full((4,), -0.5)).x


def parameter_gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in network.parameters()]


INPUTS = torch.linspace(-1, 1, 18).reshape(6, 3)


@pytest.mark.parametrize("order", [1, 2])
def test_autocast_does_not_reach_into_the_layer(order):
    """Inside, everything is float64: the same bits with autocast as without, at first and second order."""
    H, A = torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([[1.0, 1.0, 1.0]])
    g, b = torch.tensor([0.3, -1.0, 0.7], requires_grad=True), torch.tensor([0.2], requires_grad=True)

    def run(enabled):
        A_leaf = A.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            x = qc.QPLayer()(H, g, A_leaf, b).x
            found = torch.autograd.grad(x.square().sum(), (g, A_leaf, b), create_graph=order == 2)
            if order == 2:
                found = torch.autograd.grad(sum(t.square().sum() for t in found), (g, A_leaf, b))
        return [x, *found]

    for a, b_ in zip(run(True), run(False), strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b_)


def test_half_precision_from_an_autocast_network_is_solved_in_float64():
    network = Network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        g = network.linear(INPUTS)
        x = network.layer(torch.eye(4), g, network.A, network.b).x
    assert g.dtype == x.dtype == torch.bfloat16
    exact = network.layer(torch.eye(4).double(), g.double(), network.A.double(), network.b.double()).x
    assert torch.equal(x, exact.to(torch.bfloat16))
    found = parameter_gradients(network, x.float().sum())
    assert all(p.dtype == torch.float32 and torch.all(torch.isfinite(p)) for p in found)


@pytest.mark.parametrize("wanted", [("g",), ("C", "u"), ("H", "b", "lb"), DATA], ids="".join)
def test_partly_required_gradients_of_a_batch_equal_the_full_ones(wanted):
    data = tensors(random_feasible(3, 4, 1, 3, active=0.6, box=True))
    data["g"] = torch.stack([data["g"].detach()] * 3).requires_grad_()
    full = gradients(data, loss_of(call(data)))
    partly = {name: value.detach().requires_grad_(name in wanted) for name, value in data.items()}
    found = gradients(partly, loss_of(call(partly)))
    assert set(found) == set(wanted)
    for name in wanted:
        assert torch.equal(found[name], full[name]), name


def test_input_changed_in_place_before_the_backward_pass_is_an_error():
    data = tensors(random_feasible(3, 4, 1, 3), grad=False)
    g = data["g"].clone().requires_grad_()
    moved = 1.0 * g
    x = call(data | {"g": moved}).x
    moved.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()


def test_second_backward_pass_without_retain_graph_is_an_error():
    data = tensors(random_feasible(3, 4, 1, 3))
    x = call(data).x
    x.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        x.sum().backward()


def test_graph_is_freed_with_its_outputs():
    data = tensors(random_feasible(3, 4, 1, 3))
    for backward in (False, True):
        out = call(data)
        if backward:
            (first,) = torch.autograd.grad(loss_of(out), data["g"], create_graph=True)
            first.sum().backward()
            del first
        node = weakref.ref(out.x.grad_fn)
        del out
        gc.collect()
        assert node() is None


def test_checkpointed_layer_has_the_same_gradients():
    network = Network()
    plain = parameter_gradients(network, network(INPUTS).square().sum())
    again = parameter_gradients(network, checkpoint(network, INPUTS, use_reentrant=False).square().sum())
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a, b)


def test_copies_of_a_network_have_their_own_gradients():
    network = Network()
    expected = parameter_gradients(network, network(INPUTS).square().sum())
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        for a, b in zip(parameter_gradients(twin, twin(INPUTS).square().sum()), expected, strict=True):
            assert torch.equal(a, b)
        assert twin.layer.settings == network.layer.settings
    assert set(network.state_dict()) == {"linear.weight", "linear.bias", "A", "b"}


def test_solution_can_be_pickled_and_copied():
    out = call(tensors(random_feasible(3, 4, 1, 3), grad=False))
    for other in (copy.deepcopy(out), pickle.loads(pickle.dumps(out))):
        assert all(torch.equal(a, b) for a, b in zip(out, other, strict=True))


def test_solution_of_another_thread_and_its_backward_pass_have_the_serial_bits():
    """8 threads x 1000 solves and gradients, feasible and infeasible, with layers of different options."""
    problems = [tensors(random_feasible(seed, 4, 1, 3), grad=False) for seed in range(6)]
    problems += [tensors(random_infeasible_full_rank(seed, 2), grad=False) for seed in range(2)]
    layers = [qc.QPLayer(qc.Settings(threads=1)), qc.QPLayer(qc.Settings(threads=2, eps_abs=1e-9))]

    def run(k):
        data = problems[k % 8]
        g = data["g"].clone().requires_grad_()
        x = layers[k % 2](*((data | {"g": g}).get(name) for name in DATA)).x
        return torch.cat([x.detach(), torch.autograd.grad(x.square().sum(), g)[0]])

    expected = [run(k) for k in range(8)]
    differences, counts = [], []

    def work(offset):
        torch.set_num_threads(1)
        done = 0
        for k in range(1000):
            if not torch.equal(run(offset + k), expected[(offset + k) % 8]):
                differences.append((offset, k))
            done += 1
        counts.append(done)

    workers = [threading.Thread(target=work, args=(offset,)) for offset in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=100)
    assert counts == [1000] * 8
    assert not differences


def test_forked_child_differentiates_after_the_parent_has():
    done = run_script(
        """
        import os
        import torch
        import qp_control as qc
        torch.set_num_threads(1)
        layer = qc.QPLayer(qc.Settings(threads=4))
        def slope():
            g = torch.ones(64, 3, dtype=torch.float64, requires_grad=True)
            A = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
            x = layer(torch.eye(3, dtype=torch.float64), g, A, torch.ones(1, dtype=torch.float64)).x
            x[:, 0].sum().backward()
            return A.grad
        parent = slope()
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(slope(), parent) else 7)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
        assert torch.equal(slope(), parent)
        print("both answered")
        """
    )
    assert done.returncode == 0, done.stderr
    assert "both answered" in done.stdout


def train_on_a_share(rank, world, path):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=world)
    network = torch.nn.parallel.DistributedDataParallel(Network())
    network(INPUTS[rank::world]).square().mean().backward()
    torch.save([p.grad for p in network.module.parameters()], f"{path}/{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)  # tearing a process group down aborts now and then, with networks of torch's alone too


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_distributed_data_parallel_averages_the_gradients_of_its_shares(tmp_path):
    torch.multiprocessing.spawn(train_on_a_share, (2, str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    network = Network()
    expected = parameter_gradients(network, network(INPUTS).square().mean())
    for a, b, exact in zip(*found, expected, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, exact, rtol=1e-5, atol=1e-6)  # float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_results_and_gradients_are_on_the_device_of_the_input(dtype):
    H, g = torch.eye(2, dtype=dtype), torch.tensor([[1.0, -2.0], [-3.0, 4.0]], dtype=dtype)
    there = [t.cuda().requires_grad_() for t in (H, g)]
    out = qc.QPLayer()(*there, lb=torch.zeros(2, dtype=dtype))  # the bound stays on the CPU
    out.x.sum().backward()
    here = [t.requires_grad_() for t in (H, g)]
    on_cpu = qc.QPLayer()(*here, lb=torch.zeros(2, dtype=dtype))
    on_cpu.x.sum().backward()
    for t in out:
        assert t.is_cuda
    assert torch.equal(out.x.cpu(), on_cpu.x)
    for a, b in zip(there, here, strict=True):
        assert a.grad.is_cuda and a.grad.dtype == dtype and torch.equal(a.grad.cpu(), b.grad)
    tangent = torch.func.jvp(lambda g: qc.QPLayer()(there[0], g).x, (there[1],), (torch.ones_like(there[1]),))[1]
    assert tangent.is_cuda and torch.equal(tangent.cpu(), -torch.ones(2, 2, dtype=dtype))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_element_stopped_at_its_limit_contributes_nothing_to_gradients():
    qp = random_feasible(0, 30, 5, 30)
    data = tensors(qp)
    g = torch.tensor(np.stack([qp.g, qp.g]), requires_grad=True)
    solved = call(data)
    out = call(data | {"g": g}, qc.Settings(max_iter=1), warm_start=Start(solved))
    assert out.status.tolist() == [qc.Status.SOLVED, qc.Status.MAX_ITER]
    out.x.sum().backward()
    alone = tensors(qp)
    call(alone).x.sum().backward()
    assert torch.all(g.grad[1] == 0)
    torch.testing.assert_close(g.grad[0], alone["g"].grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(data["A"].grad, alone["A"].grad, rtol=1e-9, atol=1e-9)


class Start:
    """The solution for the first of two elements, zero for the second."""

    def __init__(self, solution):
        for name in "xyzw":
            value = getattr(solution, name).detach()
            setattr(self, name, torch.stack([value, torch.zeros_like(value)]))
