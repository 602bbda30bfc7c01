"""Random nonsense in place of arguments is answered or refused, in a process and on a clock of its own."""

import pytest
from test_threads import run_script


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("front", ["solve_qp", "QPLayer"])
def test_random_nonsense_is_answered_or_refused_and_never_crashes(front, seed):
    done = run_script(f"import nonsense; nonsense.run({front!r}, {seed}, 1500)", timeout=100)
    assert done.returncode == 0 and "done" in done.stdout, (done.returncode, done.stderr[-3000:])
