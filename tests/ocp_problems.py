"""Random optimal-control QPs, and their uncondensed dense form: the oracle of the structured solver."""

from __future__ import annotations

import numpy as np

INF = np.inf
STAGE = ("A", "B", "c", "R", "S", "r", "C", "D", "lower", "upper", "u_lower", "u_upper")


def psd(rng, n, rank=None):
    M = rng.normal(size=(n, rank or n))
    return M @ M.T / n + (0.1 * np.eye(n) if rank is None else 0)


def random_ocp(seed, nx=4, nu=2, N=8, *, rows=0, terminal_rows=0, box=True, varying=True, free=False, tight=1.0):
    """One element, with a feasible point by construction: bounds are `tight` away from a random trajectory."""
    rng = np.random.default_rng(seed)
    stages = N if varying else 1

    def per_stage(make):
        values = np.stack([make() for _ in range(stages)])
        return values if varying else values[0]

    H = [psd(rng, nx + nu) for _ in range(stages)]
    d = {
        "Q": np.stack([M[nu:, nu:] for M in H]),
        "R": np.stack([M[:nu, :nu] for M in H]),
        "S": np.stack([M[:nu, nu:] for M in H]),
        "q": per_stage(lambda: 2 * rng.normal(size=nx)),
        "r": per_stage(lambda: 2 * rng.normal(size=nu)),
        "Q_N": psd(rng, nx),
        "q_N": 2 * rng.normal(size=nx),
        "A": per_stage(lambda: np.eye(nx) + 0.3 * rng.normal(size=(nx, nx))),
        "B": per_stage(lambda: rng.normal(size=(nx, nu))),
        "c": per_stage(lambda: 0.3 * rng.normal(size=nx)),
        "x0": rng.normal(size=nx),
    }
    if not varying:
        d |= {name: d[name][0] for name in ("Q", "R", "S")}

    def at(name, k):
        return d[name][k] if varying else d[name]

    def width(*shape):
        return tight * rng.uniform(0.05, 1.0, size=shape)

    x, u = [d["x0"]], 0.5 * rng.normal(size=(N, nu))
    for k in range(N):
        x.append(at("A", k) @ x[k] + at("B", k) @ u[k] + at("c", k))
    x = np.stack(x)
    if rows:
        d["C"], d["D"] = rng.normal(size=(N, rows, nx)), rng.normal(size=(N, rows, nu))
        v = np.einsum("kij,kj->ki", d["C"], x[:-1]) + np.einsum("kij,kj->ki", d["D"], u)
        d["lower"], d["upper"] = v - width(N, rows), v + width(N, rows)
        d["lower"][:, ::2] = -INF
    if terminal_rows:
        d["C_N"] = rng.normal(size=(terminal_rows, nx))
        v = d["C_N"] @ x[-1]
        d["lower_N"], d["upper_N"] = v - width(terminal_rows), v + width(terminal_rows)
        d["lower_N"][0] = d["upper_N"][0] = v[0]
    if box:
        d["u_lower"], d["u_upper"] = u - width(N, nu), u + width(N, nu)
        first = 0 if free else 1
        d["x_lower"], d["x_upper"] = x[first:] - 3 * width(N + 1 - first, nx), x[first:] + 3 * width(N + 1 - first, nx)
        d["x_lower"][:, 0] = -INF
    if free:
        del d["x0"]
    return d, N


def stage(d, name, k, N):
    """The entry of stage k, None where absent or not there."""
    value = d.get(name)
    if value is None:
        return None
    value = np.asarray(value, float)
    base = 2 if name in ("Q", "R", "S", "A", "B", "C", "D") else 1
    if value.ndim == base:
        return value
    if name in ("x_lower", "x_upper") and len(value) == N:
        return value[k - 1] if k > 0 else None
    return value[0] if len(value) == 1 else value[k]


class Dense:
    """min 1/2 v'Hv + g'v, E v = e, l <= C v <= u, lb <= v <= ub over v = (x_0, .., x_N, u_0, .., u_{N-1})."""

    def __init__(self, d, N):
        nx, nu = np.shape(d["A"])[-1], np.shape(d["B"])[-1]
        self.nx, self.nu, self.N = nx, nu, N
        n = (N + 1) * nx + N * nu
        self.X = [slice(k * nx, (k + 1) * nx) for k in range(N + 1)]
        self.U = [slice((N + 1) * nx + k * nu, (N + 1) * nx + (k + 1) * nu) for k in range(N)]
        self.H, self.g = np.zeros((n, n)), np.zeros(n)
        E, e, C, l, u = [], [], [], [], []
        self.lb, self.ub = np.full(n, -INF), np.full(n, INF)

        def put(target, where, value):
            if value is not None:
                target[where] = value

        def row(pairs, size):
            out = np.zeros((size, n))
            for where, value in pairs:
                if value is not None:
                    out[:, where] = value
            return out

        free = d.get("x0") is None
        if not free:
            E.append(row([(self.X[0], -np.eye(nx))], nx))
            e.append(-np.asarray(d["x0"], float))
        for k in range(N + 1):
            X = self.X[k]
            end = k == N
            put(self.H, (X, X), d["Q_N"] if end and "Q_N" in d else stage(d, "Q", k, N))
            put(self.g, X, d["q_N"] if end and "q_N" in d else stage(d, "q", k, N))
            if k > 0 or free:
                put(self.lb, X, stage(d, "x_lower", k, N))
                put(self.ub, X, stage(d, "x_upper", k, N))
            if end:
                if "C_N" in d:
                    C.append(row([(X, d["C_N"])], len(d["C_N"])))
                    l.append(d.get("lower_N", np.full(len(d["C_N"]), -INF)))
                    u.append(d.get("upper_N", np.full(len(d["C_N"]), INF)))
                break
            U = self.U[k]
            put(self.H, (U, U), stage(d, "R", k, N))
            S = stage(d, "S", k, N)
            put(self.H, (U, X), S)
            put(self.H, (X, U), None if S is None else S.T)
            put(self.g, U, stage(d, "r", k, N))
            put(self.lb, U, stage(d, "u_lower", k, N))
            put(self.ub, U, stage(d, "u_upper", k, N))
            links = [(X, stage(d, "A", k, N)), (U, stage(d, "B", k, N)), (self.X[k + 1], -np.eye(nx))]
            E.append(row(links, nx))
            c = stage(d, "c", k, N)
            e.append(np.zeros(nx) if c is None else -c)
            Ck, Dk = stage(d, "C", k, N), stage(d, "D", k, N)
            if Ck is not None or Dk is not None:
                size = len(Ck if Ck is not None else Dk)
                C.append(row([(X, Ck), (U, Dk)], size))
                l.append(np.full(size, -INF) if "lower" not in d else stage(d, "lower", k, N))
                u.append(np.full(size, INF) if "upper" not in d else stage(d, "upper", k, N))
        self.E, self.e = np.concatenate(E), np.concatenate(e)
        self.C = np.concatenate(C) if C else None
        self.l, self.u = (np.concatenate(l), np.concatenate(u)) if C else (None, None)

    def keywords(self):
        """As arguments of solve_qp; the dynamics are never shifted."""
        out = {"H": self.H, "g": self.g, "A": self.E, "b": self.e, "lb": self.lb, "ub": self.ub}
        out["weight_eq"] = np.full(len(self.e), INF)
        if self.C is not None:
            out |= {"C": self.C, "l": self.l, "u": self.u}
        return out

    def split(self, v):
        return np.stack([v[s] for s in self.X]), np.stack([v[s] for s in self.U])

    def join(self, x, u):
        return np.concatenate([x.ravel(), u.ravel()])

    def residuals(self, sol, free):
        """Primal, dual and complementarity of an OcpSolution (feasible problems)."""
        v = self.join(sol.x, sol.u)
        y = (sol.y[1:] if free else sol.y).ravel()
        dual = self.H @ v + self.g + self.E.T @ y + self.join(sol.w_x, sol.w_u)
        primal = [np.abs(self.E @ v - self.e).max(), (self.lb - v).max(), (v - self.ub).max()]
        products = [np.minimum(np.abs(w), np.abs(v - np.where(w > 0, self.ub, self.lb))).max(initial=0, where=w != 0)
                    for w in [self.join(sol.w_x, sol.w_u)]]  # fmt: skip
        if self.C is not None:
            z = np.concatenate([sol.z.ravel(), sol.z_N])
            rows = self.C @ v
            dual += self.C.T @ z
            primal += [(self.l - rows).max(), (rows - self.u).max()]
            distance = np.abs(rows - np.where(z > 0, self.u, self.l))
            products.append(np.minimum(np.abs(z), distance).max(initial=0, where=z != 0))
        return max(primal), np.abs(dual).max(), max(products)


class SoftDense(Dense):
    """The same with soft rows, over v = (x, u, s_l, s_u) with a pair of slacks per soft row, all >= 0:
    l <= C v + s_l - s_u <= u, at the cost w1 (s_l + s_u) + w2/2 (s_l^2 + s_u^2)."""

    def __init__(self, d, N):
        super().__init__({name: value for name, value in d.items() if not name.startswith("slack")}, N)
        weights = []
        for kind in ("slack_linear", "slack_quadratic"):
            other = {"slack_linear": "slack_quadratic", "slack_quadratic": "slack_linear"}[kind]
            parts = []
            for k in range(N + 1):
                end = "_N" if k == N else ""
                size = self._row_count(d, k)
                value = d.get(kind + end) if k == N else stage(d, kind, k, N)
                missing = np.inf if d.get(other + end) is None else 0.0
                parts.append(np.full(size, missing) if value is None else np.asarray(value, float))
            weights.append(np.concatenate(parts))
        self.w1, self.w2 = weights
        self.soft = np.flatnonzero(np.isfinite(self.w1) & np.isfinite(self.w2))
        m, rows, n = len(self.soft), len(self.l), len(self.g)
        H = np.zeros((n + 2 * m, n + 2 * m))
        H[:n, :n] = self.H
        H[range(n, n + 2 * m), range(n, n + 2 * m)] = np.tile(self.w2[self.soft], 2)
        signs = np.zeros((rows, m))
        signs[self.soft, range(m)] = 1.0
        self.H, self.g = H, np.concatenate([self.g, np.tile(self.w1[self.soft], 2)])
        self.C = np.hstack([self.C, signs, -signs])
        self.E = np.hstack([self.E, np.zeros((len(self.e), 2 * m))])
        self.lb = np.concatenate([self.lb, np.zeros(2 * m)])
        self.ub = np.concatenate([self.ub, np.full(2 * m, INF)])

    def _row_count(self, d, k):
        names = ("C_N",) if k == self.N else ("C", "D")
        return next((np.shape(d[name])[-2] for name in names if d.get(name) is not None), 0)

    def join(self, x, u, lower=None, upper=None):
        """Also of multipliers or shifts of x and u, with zeros for the slacks."""
        m = len(self.soft)
        slacks = [np.zeros(m) if s is None else s[self.soft] for s in (lower, upper)]
        return np.concatenate([x.ravel(), u.ravel(), *slacks])

    def rows(self, stages, end):
        return np.concatenate([stages.ravel(), end])

    def point(self, sol):
        return self.join(
            sol.x, sol.u, self.rows(sol.slack_lower, sol.slack_lower_N), self.rows(sol.slack_upper, sol.slack_upper_N)
        )

    def gradients(self, of, d):
        """Of the stages' data, from those of the dense data; every argument has an axis of stages."""
        N, nx, m, n = self.N, self.nx, len(self.soft), len(self.g)
        out, first = {}, "x0" in d

        def per_row(values):
            full = np.zeros(len(self.l))
            full[self.soft] = values
            return full

        linear = per_row(of["g"][n - 2 * m : n - m] + of["g"][n - m :])
        diagonal = np.diag(of["H"])
        quadratic = per_row(diagonal[n - 2 * m : n - m] + diagonal[n - m :])
        stages = sum(self._row_count(d, k) for k in range(N))
        for name, rows in (
            ("lower", of["l"]),
            ("upper", of["u"]),
            ("slack_linear", linear),
            ("slack_quadratic", quadratic),
        ):
            out[name], out[name + "_N"] = rows[:stages].reshape(N, -1), rows[stages:]
        steps = [slice((k + first) * nx, (k + 1 + first) * nx) for k in range(N)]
        out["A"] = np.stack([of["A"][steps[k], self.X[k]] for k in range(N)])
        out["B"] = np.stack([of["A"][steps[k], self.U[k]] for k in range(N)])
        out["c"] = np.stack([-of["b"][steps[k]] for k in range(N)])
        if first:
            out["x0"] = -of["b"][:nx]
        out["q"], out["q_N"] = np.stack([of["g"][s] for s in self.X[:-1]]), of["g"][self.X[-1]]
        out["r"] = np.stack([of["g"][s] for s in self.U])
        out["Q"], out["Q_N"] = np.stack([of["H"][s, s] for s in self.X[:-1]]), of["H"][self.X[-1], self.X[-1]]
        out["R"] = np.stack([of["H"][s, s] for s in self.U])
        out["S"] = np.stack([2 * of["H"][self.U[k], self.X[k]] for k in range(N)])
        count = stages // N
        out["C"] = np.stack([of["C"][k * count : (k + 1) * count, self.X[k]] for k in range(N)])
        out["D"] = np.stack([of["C"][k * count : (k + 1) * count, self.U[k]] for k in range(N)])
        out["C_N"] = of["C"][stages:, self.X[-1]]
        out["u_lower"], out["u_upper"] = (np.stack([of[b][s] for s in self.U]) for b in ("lb", "ub"))
        return {name: value for name, value in out.items() if name in d}
