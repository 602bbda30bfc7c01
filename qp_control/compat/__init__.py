"""Call signatures of other differentiable solvers, implemented with this one: only the import changes.

    from proxsuite.torch.qplayer import QPFunction     ->  from qp_control.compat.proxsuite import QPFunction
    from qpth.qp import QPFunction                     ->  from qp_control.compat.qpth import QPFunction
    from mpc.mpc import MPC, QuadCost, LinDx           ->  from qp_control.compat.mpc import MPC, QuadCost, LinDx

None of these packages is needed. Each module lists at its top what differs from the original.
"""
