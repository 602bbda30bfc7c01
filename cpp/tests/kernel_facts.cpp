// Facts about what the solver is made of, each against slow and obvious code.
#include <Eigen/LU>

#include "check.hpp"
#include "qp_control/active_system.hpp"
#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/dense_kernels.hpp"
#include "qp_control/dense_kkt.hpp"
#include "qp_control/diagonal_plus_rows.hpp"
#include "qp_control/equilibration.hpp"
#include "random_problems.hpp"

using namespace qp_control;

namespace {

// The equilibrated problem that the kernels work on, made here by plain matrix products.
StackedQP equilibrated(const StackedQP& qp, const Equilibration& scaling) {
  StackedQP out = qp;
  const Vector D = numbers(scaling.D, qp.n()), E = numbers(scaling.E, qp.rows());
  out.H = scaling.c[0] * D.asDiagonal() * qp.H * D.asDiagonal();
  out.g = scaling.c[0] * D.cwiseProduct(qp.g);
  out.R = E.head(qp.stored_rows()).asDiagonal() * qp.R * D.asDiagonal();
  out.lower = E.cwiseProduct(qp.lower);
  out.upper = E.cwiseProduct(qp.upper);
  return out;
}

PackArray packed(const Vector& v) {
  PackArray out = PackArray::Constant(packs(v.size()), Pack(0.0));
  numbers(out, v.size()) = v;
  return out;
}

const Register rows_are_updated("updated factor equals the plain matrix of the new weights", [] {
  for (const int n : {1, 3, 4, 6, 9, 16, 21}) {
    const StackedQP qp = random_qp(n, 5);
    DenseKkt kkt(n, 5);
    Equilibration scaling(packs(n), packs(n + 5));
    check(kkt.load(qp, scaling), "convex");
    Vector weight = Vector::Ones(n + 5);
    check(all(kkt.factor(packed(weight), 1e-6)), "positive definite");
    weight[1] = 0.0;
    weight[3] = 7.0;
    weight[n + 4] = 0.0;
    check(all(kkt.factor(packed(weight), 1e-6)), "positive definite after an update");
    const Vector rhs = random<Vector>(n);
    PackArray solution = packed(rhs);
    kkt.solve(solution);
    const StackedQP scaled = equilibrated(qp, scaling);
    Matrix M = scaled.H + 1e-6 * Matrix::Identity(n, n);
    M += scaled.R.transpose() * weight.head(5).asDiagonal() * scaled.R;
    M.diagonal() += weight.tail(n);
    check_close((M * numbers(solution, n) - rhs).norm(), 0.0, 1e-11, "residual of the plain matrix");
  }
});

// A matrix in the shape that the factorisation asks for.
struct Square {
  explicit Square(const Matrix& A) : n(static_cast<int>(A.rows())), stride(padded(n)) {
    numbers_of.setConstant(packs(stride * ((n + lu_panel - 1) / lu_panel * lu_panel)), Pack(0.0));
    for (int j = 0; j < n; ++j) numbers(numbers_of, stride * n).segment(j * stride, n) = A.col(j);
  }
  double* data() { return numbers(numbers_of); }

  int n, stride;
  Reserved<PackArray> numbers_of;
};

const Register lu_is_right("factors with row exchanges solve what Eigen's do, also where pivots are zero", [] {
  for (int n = 1; n <= 40; ++n) {
    Matrix A = random<Matrix>(n, n);
    A(0, 0) = 0.0;
    A.topLeftCorner(n / 2, n / 2).setZero();
    if (n == 1) A(0, 0) = 2.0;
    const Vector b = random<Vector>(n);
    Square factor(A);
    std::vector<int> exchanged(n);
    lu(factor.data(), n, factor.stride, exchanged.data());
    Vector x = b;
    lu_solve(factor.data(), n, factor.stride, exchanged.data(), x.data());
    const Vector expected = A.fullPivLu().solve(b);
    check_close((x - expected).norm(), 0.0, 1e-9 * (1.0 + expected.norm()), "solution");
    check((Eigen::Map<Matrix, 0, Eigen::OuterStride<>>(factor.data(), n, n, Eigen::OuterStride<>(factor.stride))
               .triangularView<Eigen::StrictlyLower>()
               .toDenseMatrix()
               .cwiseAbs()
               .maxCoeff()) <= 1.0,
          "the largest entry is the pivot");
  }
  Matrix singular = random<Matrix>(9, 9);
  singular.col(4).setZero();
  Square factor(singular);
  std::vector<int> exchanged(9);
  Vector x = Vector::Ones(9);
  lu(factor.data(), 9, factor.stride, exchanged.data());
  lu_solve(factor.data(), 9, factor.stride, exchanged.data(), x.data());
  check(!x.allFinite(), "no solution of a singular matrix");
});

const Register products_are_right("packed products equal those of the plain matrices", [] {
  for (const int n : {1, 5, 8, 13}) {
    const StackedQP qp = random_qp(n, 7);
    DenseKkt kkt(n, 7);
    Equilibration scaling(packs(n), packs(n + 7));
    kkt.load(qp, scaling);
    const StackedQP scaled = equilibrated(qp, scaling);
    const Vector x = random<Vector>(n), z = random<Vector>(n + 7);
    PackArray v = packed(Vector::Zero(n + 7)), Hx = packed(Vector::Zero(n)), Rz = packed(Vector::Zero(n));
    kkt.apply_rows(packed(x), v);
    kkt.apply_hessian(packed(x), Hx);
    kkt.add_rows_transposed(packed(z), Rz);
    Vector plain(n + 7), transposed = Vector::Zero(n);
    scaled.apply_rows(x, plain);
    scaled.add_rows_transposed(z, transposed);
    check_close((numbers(v, n + 7) - plain).norm(), 0.0, 1e-13, "R x");
    check_close((numbers(Hx, n) - scaled.H * x).norm(), 0.0, 1e-13, "H x");
    check_close((numbers(Rz, n) - transposed).norm(), 0.0, 1e-13, "R'z");
  }
});

const Register line_search_is_exact("line search finds the least value along the direction", [] {
  for (int trial = 0; trial < 20; ++trial) {
    const StackedQP plain = random_qp(4, 6);
    DenseKkt kkt(4, 6);
    Equilibration scaling(packs(4), packs(10));
    kkt.load(plain, scaling);
    const StackedQP qp = equilibrated(plain, scaling);
    Penalties penalties(packs(10));
    penalties.reset(kkt.lower(), kkt.upper());
    Iterate it(packs(4), packs(10));
    it.x = it.x_center = packed(random<Vector>(4));
    it.z_center = packed(random<Vector>(10));
    const auto value = [&](double t) {
      const Vector x = numbers(it.x, 4) + t * numbers(it.dx, 4), v = numbers(it.v, 10) + t * numbers(it.dv, 10);
      const Vector moved = x - numbers(it.x_center, 4);
      double out = 0.5 * x.dot(qp.H * x) + qp.g.dot(x) + 0.5 * penalties.rho[0] * moved.squaredNorm();
      for (int i = 0; i < 10; ++i) {
        const double mu = numbers(penalties.mu, 10)[i], shifted = v[i] + mu * numbers(it.z_center, 10)[i];
        const double distance = std::max(0.0, shifted - qp.upper[i]) + std::max(0.0, qp.lower[i] - shifted);
        out += 0.5 * distance * distance / mu;
      }
      return out;
    };
    refresh(kkt, Mask::all(true), it);
    evaluate(kkt, penalties, it);
    for (int j = 0; j < it.x.size(); ++j) it.dx[j] = -it.gradient[j];
    kkt.apply_rows(it.dx, it.dv);
    kkt.apply_hessian(it.dx, it.Hdx);
    const double t = line_search(kkt, penalties, it)[0];
    check(t > 0.0, "a descent direction gets a positive step");
    const double h = 1e-4 * t, best = value(t);
    check(best <= value(t - h) && best <= value(t + h), "no neighbour is better");
    check(value(0.3 * t) >= best && value(3.0 * t) >= best, "no far point is better");
  }
});

const Register scaling_is_exact("scaling is by powers of two and makes rows of one size", [] {
  StackedQP qp = random_qp(5, 7);
  for (int i = 0; i < 7; ++i) {
    const double scale = std::pow(10.0, i - 3);
    qp.R.row(i) *= scale;
    qp.lower[i] *= scale;
    qp.upper[i] *= scale;
  }
  Equilibration scaling(packs(5), packs(12));
  DenseKkt kkt(5, 7);
  kkt.load(qp, scaling);
  const auto is_power_of_two = [](double a) { return std::ldexp(1.0, std::ilogb(a)) == a; };
  for (int j = 0; j < 5; ++j) check(is_power_of_two(scaling.D[j / lanes][j % lanes]), "D");
  for (int i = 0; i < 12; ++i) check(is_power_of_two(scaling.E[i / lanes][i % lanes]), "E");
  check(is_power_of_two(scaling.c[0]), "c");
  const StackedQP scaled = equilibrated(qp, scaling);
  const double largest = scaled.R.rowwise().norm().maxCoeff(), smallest = scaled.R.rowwise().norm().minCoeff();
  check(largest < 10.0 * smallest, "rows of seven sizes become rows of one size");
});

// Rows of size one, and diagonals down to the least that it is meant for.
const Register rows_factor("a factor by the rows solves like the plain matrix, whatever was factored before", [] {
  for (const int n : {1, 5, 16, 33})
    for (const int m : {0, 1, n / 2, n}) {
      const RowMatrix R = random<RowMatrix>(m, n) / std::sqrt(double(n));
      PackArray rows = PackArray::Constant(packs(padded(n) * m), Pack(0.0));
      for (int i = 0; i < m; ++i) Eigen::Map<Vector>(numbers(rows) + i * padded(n), n) = R.row(i);
      DiagonalPlusRows factor(n + 3, m + 2);
      factor.load(numbers(rows), n, m, padded(n));
      for (int trial = 0; trial < 12; ++trial) {
        Vector D = random<Vector>(n).cwiseAbs().array() + DiagonalPlusRows::least_entry;
        Vector weight = Vector::Constant(m, trial % 3 == 0 ? 1.0 : 1e6);
        if (trial % 4 == 1) D.tail(n / 2).array() += 1e6;  // variables held by their box
        for (int i = trial % 2; i < m; i += 2) weight[i] = 0.0;
        PackArray padded_D = PackArray::Constant(packs(n), Pack(1.0));
        numbers(padded_D, n) = D;
        check(factor.factor(padded_D, weight.data()), "positive definite");
        const Vector rhs = R.transpose() * (weight.array() * 1e-3 + 1.0).matrix() + random<Vector>(n);
        PackArray x = packed(rhs);
        factor.solve(numbers(x));
        Matrix M = R.transpose() * weight.asDiagonal() * R;
        M.diagonal() += D;
        // Backward stable, up to the spread of D: one refinement has made up for the rest.
        const double size = M.norm() * numbers(x, n).norm() + rhs.norm();
        check((M * numbers(x, n) - rhs).norm() <= 1e-12 * size, "residual");
        DiagonalPlusRows fresh(n, m);
        fresh.load(numbers(rows), n, m, padded(n));
        fresh.factor(padded_D, weight.data());
        factor.forget();
        factor.factor(padded_D, weight.data());
        PackArray first = packed(rhs), second = first;
        fresh.solve(numbers(first));
        factor.solve(numbers(second));
        check(numbers(first, n) == numbers(second, n), "the same bits after forget()");
      }
    }
});

const Register active_system_by_rows("active system of a diagonal H equals that of the same H as a full matrix", [] {
  for (const bool small : {false, true}) {
    Vector h = random<Vector>(9).cwiseAbs().array() + 0.1;
    if (small) h[2] = h[5] = 0.0;  // not for a factor by the rows
    const Matrix H = h.asDiagonal();
    const RowMatrix R = random<RowMatrix>(4, 9);
    std::vector<ActiveVector> solutions;
    for (const bool diagonal : {false, true}) {
      ActiveSystem system(9);
      system.set(H, R, {0, 1, 3, 6, 11}, diagonal);
      check(system.factor() && !system.singular(), "regular");
      ActiveVector rhs = system.zero(), s = system.zero();
      rhs.x = Vector::LinSpaced(9, -1.0, 2.0);
      rhs.rows << 1.0, -2.0, 3.0;
      rhs.fixed << 0.5, -0.5;
      check(system.refine(rhs, s) < 1e-13, "refined residual");
      solutions.push_back(s);
    }
    check_close((solutions[0].x - solutions[1].x).norm() + (solutions[0].rows - solutions[1].rows).norm(), 0.0, 1e-10,
                "solution");
  }
});

const Register active_system_solves("active system equals a dense solve of its KKT matrix", [] {
  const Matrix M = random<Matrix>(6, 6), H = M * M.transpose();
  ActiveSystem system(6);
  system.set(H, random<RowMatrix>(2, 6), {0, 1, 3, 6});
  check(system.factor(), "factor");
  check(!system.singular(), "regular");
  ActiveVector rhs = system.zero(), s = system.zero(), r = system.zero();
  rhs.x = random<Vector>(6);
  rhs.rows = random<Vector>(2);
  rhs.fixed = random<Vector>(2);
  check(system.refine(rhs, s) < 1e-13, "refined residual");
  system.residual(rhs, s, r);
  check_close(r.norm(), 0.0, 1e-11, "residual");
  const ActiveVector least = system.least_squares(rhs);
  check_close((least.x - s.x).norm() + (least.rows - s.rows).norm() + (least.fixed - s.fixed).norm(), 0.0, 1e-8,
              "least squares of a regular system");
});

const Register null_spaces_show("a null space is found, in H and in the rows", [] {
  ActiveSystem system(3);
  Matrix H = Matrix::Zero(3, 3);
  H(0, 0) = H(1, 1) = 1.0;
  RowMatrix row(1, 3), twice(2, 3);
  row << 1, 0, 0;
  twice << 1, 2, 3, 2, 4, 6;
  system.set(H, row, {0});
  check(system.factor() && system.singular(), "x_3 is free and without curvature");
  system.set(H, twice, {0, 1, 4});
  check(system.factor() && system.singular(), "one row is twice the other");
  system.set(H, row, {0, 3});
  check(system.factor() && !system.singular(), "negative control");
  int deficiency = -1;
  system.set(H, twice, {0, 1});
  ActiveVector rhs = system.zero();
  rhs.rows << 1, 2;
  const ActiveVector s = system.least_squares(rhs, &deficiency);
  check(deficiency == 1, "rank deficiency of the KKT matrix");
});

}  // namespace

int main() { return run_facts(); }
