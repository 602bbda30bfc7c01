"""The builds of the solver for different vector instructions: chosen at import, and equal up to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qp_control._cpu import usable_kernels

SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from problems import random_feasible, random_infeasible_rank_deficient
import qp_control as qc
from qp_control import _solver
qps = [random_feasible(seed, n, 2, n, box=True) for seed in range(3) for n in (6, 20, 60)]
qps += [random_infeasible_rank_deficient(seed) for seed in range(3)]
sols = [qc.solve_qp(**qp.keywords(), settings=qc.Settings(infeasible="closest")) for qp in qps]
print(json.dumps([_solver.kernels, [[int(s.status), *s.x, *s.z, *s.s_lower] for s in sols]]))
"""


MISSING = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name.endswith(sys.argv[1]) else find(name)
from qp_control import doctor
print([finding.text for finding in doctor.examine() if finding.subject == "kernels"])
"""


def run(kernels, script=SCRIPT, argument=str(Path(__file__).parent)):
    command = [sys.executable, "-c", script, argument]
    environment = {name: value for name, value in os.environ.items() if name != "QP_CONTROL_KERNELS"}
    if kernels is not None:
        environment["QP_CONTROL_KERNELS"] = kernels
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_the_widest_build_is_the_default_and_all_give_the_same_solutions():
    usable = usable_kernels()
    assert usable[-1] == "generic"
    chosen, expected = json.loads(run(None).stdout)
    assert chosen == usable[0]
    for kernels in usable:
        done = run(kernels)
        assert done.returncode == 0, done.stderr
        name, sols = json.loads(done.stdout)
        assert name == kernels
        for sol, reference in zip(sols, expected, strict=True):
            assert sol[0] == reference[0]
            # Each is polished to residuals of 1e-13 or so, on systems with a condition of at most 1e4.
            np.testing.assert_allclose(sol[1:], reference[1:], atol=1e-8)


@pytest.mark.parametrize("kernels", ["avx1024", ""])
def test_build_that_is_not_there_is_refused_with_those_that_are(kernels):
    done = run(kernels)
    assert done.returncode != 0
    assert f"QP_CONTROL_KERNELS is {kernels!r}, this processor has: {', '.join(usable_kernels())}" in done.stderr


@pytest.mark.skipif(len(usable_kernels()) == 1, reason="a processor with one build")
def test_where_the_best_build_is_missing_the_next_one_is_taken():
    best, after, *_ = usable_kernels()
    done = run(None, MISSING, best)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"['{after}, this processor has {best}: built on another one, install again']\n"
    assert run(best, MISSING, best).returncode != 0
