"""Solve a QP, and an infeasible one whose constraints contradict each other."""

import numpy as np

import qp_control as qc

H = np.array([[4.0, 1.0], [1.0, 2.0]])
g = np.array([1.0, 1.0])
C = np.array([[1.0, 1.0]])

sol = qc.solve_qp(H, g, C=C, l=[1.0], u=[1.0], lb=[0.0, 0.0], ub=[0.7, 0.7])
print("x =", sol.x, " multiplier of the row =", sol.z, " status =", sol.status.name)

# x1 + x2 = 3 cannot be met inside the box. Strict mode proves it; closest-feasible mode shifts rows and box as little
# as it can.
row = {"C": C, "l": [3.0], "u": [3.0], "lb": [0.0, 0.0], "ub": [0.7, 0.7]}
print("strict:", qc.solve_qp(H, g, **row).status.name)
near = qc.solve_qp(H, g, **row, settings=qc.Settings(infeasible="closest"))
print("closest:", near.status.name, " x =", near.x, " row shifted by", near.s_lower, " box shifted by", near.s_ub)
