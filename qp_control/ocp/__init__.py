"""Optimal-control QPs: argument rules, solver, derivatives on arrays; the solution as a function in torch."""
