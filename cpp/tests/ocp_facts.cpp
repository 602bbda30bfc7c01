// Facts about optimal-control QPs: the Riccati recursion against the dense solver.
#include "check.hpp"
#include "qp_control/ocp_batch.hpp"
#include "qp_control/ocp_dense.hpp"
#include "qp_control/ocp_derivatives_batch.hpp"
#include "qp_control/ocp_minimiser.hpp"
#include "qp_control/ocp_shifted_system.hpp"
#include "random_ocp.hpp"

using namespace qp_control;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

BatchEnd solve(RandomOcp& ocp, const Settings& settings, bool warm = false) {
  return solve_ocp_batch(ocp.batch, settings, warm, ocp.solution, [] { return false; });
}

// The structured route's solution of element i, and the dense solver's.
std::pair<Solution, Solution> both(RandomOcp& ocp, int i) {
  OcpDense form(ocp.batch);
  const DenseDims d = form.dims();
  Solution structured(d.n, d.rows()), dense(d.n, d.rows());
  form.read_solution(ocp.batch, ocp.solution, i, structured);
  DenseSolver solver(d);
  solver.solve(form.problem(ocp.batch, i), Settings(), Deadline(0.0), false, dense);
  return {structured, dense};
}

const Register equal_solutions("solutions equal those of the dense form, in lanes and beyond, warm and cold", [] {
  for (const auto& [N, nx, nu] : {std::tuple{1, 2, 1}, {5, 3, 2}, {12, 4, 1}, {3, 20, 6}}) {
    for (const bool fixed : {true, false}) {
      RandomOcp ocp(N, nx, nu, 5, fixed);
      for (const bool warm : {false, true}) {
        solve(ocp, Settings(), warm);
        for (int i = 0; i < ocp.batch.size; ++i) {
          check(ocp.status[i] == 0, "solved");
          const auto [structured, dense] = both(ocp, i);
          check(norm_inf(structured.x - dense.x) < 1e-8, "states and inputs");
          check(norm_inf(structured.z - dense.z) < 1e-6 * (1.0 + norm_inf(dense.z)), "multipliers");
        }
      }
    }
  }
});

const Register equal_soft_solutions("solutions with soft rows equal those of the dense form with slacks", [] {
  for (const auto& [linear, quadratic] : {std::pair{0.4, 0.0}, {0.0, 3.0}, {0.2, 1.0}, {infinity, 1.0}}) {
    for (const auto& [N, nx, nu] : {std::tuple{1, 2, 1}, {5, 3, 2}, {3, 20, 6}}) {
      RandomOcp ocp(N, nx, nu, 5);
      ocp.soften(linear, quadratic);
      // Hard rows may contradict the bounds on the inputs.
      ocp.batch.u_lower = ocp.batch.u_upper = {};
      for (const bool warm : {false, true}) {
        solve(ocp, Settings(), warm);
        for (int i = 0; i < ocp.batch.size; ++i) {
          const auto [structured, dense] = both(ocp, i);
          check(ocp.status[i] == static_cast<int>(dense.status), "status");
          if (dense.status != Status::SOLVED) continue;
          check(norm_inf(structured.x - dense.x) < 1e-8, "states, inputs and slacks");
          check(norm_inf(structured.z - dense.z) < 1e-6 * (1.0 + norm_inf(dense.z)), "multipliers");
        }
      }
      const MutableBatchArray& slack = ocp.solution.slack_upper_N;
      const bool is_soft = std::isfinite(linear);
      check((*std::max_element(slack.data, slack.data + 5) > 1e-3) == is_soft,
            "slacks take effect, unless rows are hard");
    }
  }
});

// Gradients by all data of a random loss on the solutions, structured and by the dense form.
void compare_gradients(RandomOcp& ocp) {
  const auto [N, nx, nu, rows, terminal_rows] = ocp.batch.dims;
  const int B = ocp.batch.size;
  OcpBatchSolution loss = ocp.fields();
  for (int k = 0; k < B * (N + 1) * nx; ++k) loss.x.data[k] = loss.y.data[k] = loss.s_x_lower.data[k] = normal();
  for (int k = 0; k < B * N * nu; ++k) loss.u.data[k] = loss.w_u.data[k] = loss.s_u_upper.data[k] = normal();
  for (int i = 0; i < B; ++i) loss.objective.data[i] = normal();
  for (int k = 0; k < B * N; ++k) loss.slack_upper.data[k] = normal();
  const auto gradients = [&, nx = nx, nu = nu] {
    OcpGradients out;
    for (const OcpField& field : ocp_fields) {
      const StageArray& from = ocp.batch.*field.data;
      if (from.data == nullptr) continue;
      const long size = std::max({nx * nx, nu * nx, nu * nu}) * long(B);
      out.*field.gradient = {ocp.constant(size, 0.0), from.batch, from.stage, from.first, size};
    }
    return out;
  };
  const OcpGradients structured = gradients(), dense = gradients();
  std::vector<double> residual(B);
  ocp_adjoint_batch(ocp.batch, ocp.solution, {}, {{loss, structured, {residual.data(), nullptr, nullptr}}});
  OcpDense form(ocp.batch);
  const DenseDims d = form.dims();
  StackedQP qp(d.n, d.n_eq + d.n_in);
  Solution solution(d.n, d.rows());
  OutputDerivative outputs(d.n, d.rows());
  DataDerivative data(d.n, d.n_eq + d.n_in);
  for (int i = 0; i < B; ++i) {
    check(residual[i] < 1e-11, "certificate");
    stack(form.problem(ocp.batch, i), qp);
    form.read_solution(ocp.batch, ocp.solution, i, solution);
    form.read_loss(loss, i, outputs);
    adjoint(qp, solution, outputs, {}, data);
    form.add_gradients(ocp.batch, data, dense, i);
  }
  for (const OcpField& field : ocp_fields) {
    const StageGradient &a = structured.*field.gradient, &b = dense.*field.gradient;
    for (long k = 0; k < a.size; ++k)
      check(std::abs(a.data[k] - b.data[k]) < 1e-8 * (1.0 + std::abs(b.data[k])), "gradient");
  }
}

// Changes of the solutions with a random change of all data, structured and by the dense form.
void compare_tangents(RandomOcp& ocp) {
  const auto [N, nx, nu, rows, terminal_rows] = ocp.batch.dims;
  const int B = ocp.batch.size;
  OcpBatch change;
  for (const OcpField& field : ocp_fields) {
    StageArray &to = change.*field.data, from = ocp.batch.*field.data;
    if (from.data == nullptr) continue;
    to = from;
    to.data = ocp.numbers(std::max({nx * nx, nu * nx, nu * nu}) * long(N + 1) * B, 1.0);
  }
  const OcpBatchSolution structured = ocp.fields(), dense = ocp.fields();
  std::vector<double> residual(B);
  ocp_tangent_batch(ocp.batch, ocp.solution, {}, {{change, structured, {residual.data(), nullptr, nullptr}}});
  OcpDense form(ocp.batch);
  const DenseDims d = form.dims();
  StackedQP qp(d.n, d.n_eq + d.n_in);
  Solution solution(d.n, d.rows());
  OutputDerivative outputs(d.n, d.rows());
  DataDerivative data(d.n, d.n_eq + d.n_in);
  SolutionPoint at(d.n, d.rows());
  double largest = 0.0;
  for (int i = 0; i < B; ++i) {
    check(residual[i] < 1e-11, "certificate");
    stack(form.problem(ocp.batch, i), qp);
    form.read_solution(ocp.batch, ocp.solution, i, solution);
    form.read_change(ocp.batch, change, i, data);
    tangent(qp, solution, data, {}, outputs, at);
    form.write_change(outputs, dense, i);
  }
  for (auto array : {&OcpBatchSolution::x, &OcpBatchSolution::u, &OcpBatchSolution::y, &OcpBatchSolution::z,
                     &OcpBatchSolution::z_N, &OcpBatchSolution::w_x, &OcpBatchSolution::w_u,
                     &OcpBatchSolution::s_x_lower, &OcpBatchSolution::s_u_upper, &OcpBatchSolution::slack_lower,
                     &OcpBatchSolution::slack_upper, &OcpBatchSolution::slack_upper_N, &OcpBatchSolution::objective}) {
    const MutableBatchArray &a = structured.*array, &b = dense.*array;
    for (long k = 0; k < a.stride * B; ++k) {
      largest = std::max(largest, std::abs(b.data[k]));
      check(std::abs(a.data[k] - b.data[k]) < 1e-8 * (1.0 + largest), "change");
    }
  }
  check(largest > 0.1, "something changes");
}

const Register equal_gradients(
    "gradients equal those of the dense form, of shared data the sum, and so do tangents", [] {
      for (const auto& [N, nx, nu, soft] :
           {std::tuple{4, 3, 2, false}, {3, 20, 6, false}, {4, 3, 2, true}, {3, 20, 6, true}}) {
        RandomOcp ocp(N, nx, nu, 3);
        if (soft) ocp.soften(0.2, 1.0);
        solve(ocp, Settings());
        compare_gradients(ocp);
        compare_tangents(ocp);
      }
    });

const Register shifted_gradients("of shifted solutions too, and the recursions answer for them", [] {
  Settings closest;
  closest.closest = true;
  for (const auto& [N, nx, nu] : {std::tuple{5, 3, 1}, {3, 20, 6}}) {
    for (const bool fixed : {true, false}) {
      RandomOcp ocp(N, nx, nu, 3, fixed);
      // From the second state on, one state must not be below 30, and the inputs are too small for that.
      double* lower = ocp.constant((N + 1) * nx, -std::numeric_limits<double>::infinity());
      for (int k = 1; k <= N; ++k) lower[k * nx] = 30.0;
      for (int j = 0; j < nx; ++j) lower[j] = -1.0;
      double* upper = ocp.constant((N + 1) * nx, std::numeric_limits<double>::infinity());
      for (int j = 0; j < nx; ++j) upper[j] = 1.0;
      ocp.batch.x_lower = {lower, 0, nx};
      ocp.batch.x_upper = {upper, 0, nx};
      solve(ocp, closest);
      ShiftedOcpSystem system(ocp.batch);
      const OcpBatchSolution loss = ocp.fields();
      for (int i = 0; i < 3; ++i) {
        check(ocp.status[i] == static_cast<int>(Status::CLOSEST_FEASIBLE), "out of reach");
        check(system.prepare(ocp.batch, i, ocp.solution), "regular");
        bool done = false;
        differentiate(system, ocp.batch, i, i + 1, OcpLoss{loss, {}, {}}, &done);
        check(done, "answered");
      }
      compare_gradients(ocp);
      compare_tangents(ocp);
    }
  }
});

const Register bad_weights("weights that are negative or NaN are refused", [] {
  for (const double bad : {-1.0, std::numeric_limits<double>::quiet_NaN(), -infinity}) {
    RandomOcp ocp(4, 3, 2, 2);
    ocp.soften(1.0, 1.0);
    double* weights = ocp.constant(2, 1.0);
    weights[1] = bad;
    ocp.batch.slack_quadratic = {weights, 1, 0};
    solve(ocp, Settings());
    check(ocp.status[0] == 0 && ocp.status[1] == static_cast<int>(Status::INVALID_INPUT), "status");
  }
});

// Adds x_{k+1}'M x_{k+1} / 2 to the cost of every stage and takes x_k'M x_k / 2 from it, M = diag(1, -1, ..) * size:
// along the dynamics that cancels up to a constant. The costates lose M x_k.
void add_cancelling_cost(RandomOcp& ocp, double size) {
  const auto [N, nx, nu, rows, terminal_rows] = ocp.batch.dims;
  const auto M = [&, size = size](int i) { return i % 2 == 0 ? size : -size; };
  const auto product = [&, nx = nx](const double* left, int m, const double* right, int n, double* to) {
    for (int a = 0; a < m; ++a)
      for (int b = 0; b < n; ++b)
        for (int i = 0; i < nx; ++i) to[a * n + b] += left[i * m + a] * M(i) * right[i * n + b];
  };
  double *Q = ocp.constant(nx * nx, 0.0), *Q_N = ocp.constant(nx * nx, 0.0), *R = ocp.constant(nu * nu, 0.0),
         *S = ocp.constant(nu * nx, 0.0);
  std::copy_n(ocp.batch.Q.data, nx * nx, Q);
  for (int i = 0; i < nx; ++i) Q[i * nx + i] -= M(i);
  std::copy_n(Q, nx * nx, Q_N);
  std::copy_n(ocp.batch.R.data, nu * nu, R);
  const double *A = ocp.batch.A.data, *B = ocp.batch.B.data;
  product(A, nx, A, nx, Q);
  product(B, nu, B, nu, R);
  product(B, nu, A, nx, S);
  ocp.batch.Q = {Q, 0, 0};
  ocp.batch.Q_N = {Q_N, 0, 0};
  ocp.batch.R = {R, 0, 0};
  ocp.batch.S = {S, 0, 0};
  for (int j = 0; j < ocp.batch.size * (N + 1) * nx; ++j) ocp.solution.y.data[j] -= M(j % nx) * ocp.solution.x.data[j];
}

// The gradients by q, u_upper and x0 of a loss on states and inputs, by the recursion alone.
template <class Real>
std::vector<double> gradients_by_recursion(RandomOcp& ocp, const OcpBatchSolution& loss, const bool* expected) {
  const int B = ocp.batch.size, nx = ocp.batch.dims.nx, nu = ocp.batch.dims.nu, size = nx + nu;
  std::vector<double> out(B * (size + nx)), residual(B);
  SolvedOcpSystem<Real> system(ocp.batch);
  constexpr int width = system.width();
  for (int first = 0; first < B; first += width) {
    bool done[64];
    const int last = std::min(B, first + width);
    OcpGradients to;
    to.q = {out.data(), size + nx, 0};
    to.u_upper = {out.data() + nx, size + nx, 0};
    to.x0 = {out.data() + size, size + nx, 0};
    system.set(ocp.batch, first, last, ocp.solution);
    system.factor();
    differentiate(system, ocp.batch, first, last, OcpLoss{loss, to, {residual.data(), nullptr, nullptr}}, done);
    for (int i = first; i < last; ++i) check(done[i - first] == expected[i], "what the recursion answers for");
  }
  return out;
}

template <class Real>
void stages_need_no_convexity(int N, int nx, int nu) {
  constexpr int B = 11;
  RandomOcp ocp(N, nx, nu, B);
  solve(ocp, Settings());
  OcpBatchSolution loss = ocp.fields();
  for (int j = 0; j < B * (N + 1) * nx; ++j) loss.x.data[j] = normal();
  for (int j = 0; j < B * N * nu; ++j) loss.u.data[j] = normal();
  bool expected[B];
  std::fill_n(expected, B, true);
  const std::vector<double> convex = gradients_by_recursion<Real>(ocp, loss, expected);
  add_cancelling_cost(ocp, 5.0);
  const std::vector<double> same = gradients_by_recursion<Real>(ocp, loss, expected);
  for (std::size_t j = 0; j < same.size(); ++j)
    check(std::abs(same[j] - convex[j]) < 1e-9 * (1.0 + std::abs(convex[j])), "gradient");
  // Element 2 has inputs that are free and pay nothing but a reward.
  double* R = ocp.constant(B * nu * nu, 0.0);
  for (int i = 0; i < B; ++i)
    for (int j = 0; j < nu * nu; ++j)
      R[i * nu * nu + j] = ocp.batch.R.data[j] - (i == 2 && j % (nu + 1) == 0 ? 1e3 : 0);
  ocp.batch.R = {R, nu * nu, 0};
  expected[2] = false;
  const std::vector<double> apart = gradients_by_recursion<Real>(ocp, loss, expected);
  const int size = 2 * nx + nu;
  for (int j = 0; j < B * size; ++j)
    check(apart[j] == (j / size == 2 ? 0.0 : same[j]), "neighbours of an element without a minimum");
}

const Register indefinite("stages of any curvature: what cancels along the dynamics changes no gradient", [] {
  stages_need_no_convexity<Pack>(5, 3, 2);
  stages_need_no_convexity<double>(5, 3, 2);
  stages_need_no_convexity<double>(3, 21, 6);
});

const Register outcomes("problems without a solution say so, and their neighbours do not notice", [] {
  RandomOcp ocp(4, 3, 2, 4);
  double* x0 = const_cast<double*>(ocp.batch.x0.data);
  x0[3] = std::numeric_limits<double>::quiet_NaN();
  solve(ocp, Settings());
  for (int i = 0; i < 4; ++i)
    check(ocp.status[i] == static_cast<int>(i == 1 ? Status::INVALID_INPUT : Status::SOLVED), "NaN");
  RandomOcp unreachable(4, 3, 2, 2);
  unreachable.batch.x_lower = {unreachable.constant(3, 100.0), 0, 0};
  Settings closest;
  for (const bool shifts : {false, true}) {
    closest.closest = shifts;
    solve(unreachable, closest);
    const Status expected = shifts ? Status::CLOSEST_FEASIBLE : Status::PRIMAL_INFEASIBLE;
    for (const long long status : unreachable.status) check(status == static_cast<int>(expected), "out of reach");
  }
});

const Register leftovers("what overflows leaves nothing behind for the problems after it", [] {
  RandomOcp ocp(5, 3, 2, 3);
  double* A = ocp.numbers(3 * 9, 0.2);
  double* x_lower = ocp.constant(3 * 3, -3.0);
  ocp.batch.A = {A, 9, 0};
  ocp.batch.x_lower = {x_lower, 3, 0};
  x_lower[3] = x_lower[7] = 4.0;  // out of reach, which one problem at a time has to find out
  Settings settings;
  settings.closest = true;
  settings.threads = 1;
  solve(ocp, settings);
  const auto of_others = [&] {
    std::vector<double> out;
    for (const auto* array : {&ocp.solution.x, &ocp.solution.u, &ocp.solution.y, &ocp.solution.z})
      out.insert(out.end(), array->at(1), array->at(3));
    for (int i : {1, 2}) {
      check(ocp.status[i] == static_cast<int>(Status::CLOSEST_FEASIBLE), "shifted");
      out.push_back(double(ocp.iterations[i]));
    }
    return out;
  };
  const std::vector<double> before = of_others();
  for (double huge : {1e10, 1e150, 1e300}) {
    A[0] = huge;
    solve(ocp, settings);
    check(of_others() == before, "the bits of its neighbours, and their steps");
  }
});

const Register rescue_alone("the rescue alone finds the solutions of optimal-control QPs", [] {
  generator.seed(7);  // whatever facts stand before: not every random plant keeps its rows for 40 stages
  for (const auto& [N, nx, nu] : {std::tuple{6, 3, 2}, {40, 4, 1}, {5, 20, 6}}) {
    for (const bool fixed : {true, false}) {
      RandomOcp ocp(N, nx, nu, 1, fixed);
      solve(ocp, Settings());
      check(ocp.status[0] == 0, "solved");
      RiccatiKkt<double> kkt(ocp.batch);
      Equilibration scaling(kkt.unknowns(), kkt.rows());
      kkt.load(ocp.batch, 0, 1, scaling);
      Iterate it(kkt.unknowns(), kkt.rows());
      InteriorPoint<OcpStepSystem> interior(kkt);
      interior.load(kkt, PackArray::Constant(kkt.rows(), Pack(0.0)));
      interior.run(100, Deadline(0.0), it);
      check(it.steps < 40, "steps");
      OcpElement point(ocp.batch.dims);
      read_iterate(kkt.layout(), scaling, it.x, it.z, point);
      // The method stops at products of 1e-25, and at residuals that are rounding.
      const auto equals = [&](const std::vector<double>& a, const MutableBatchArray& b, double tolerance) {
        for (std::size_t j = 0; j < a.size(); ++j) check(std::abs(a[j] - b.data[j]) < tolerance, "entry");
      };
      equals(point.x, ocp.solution.x, 1e-8);
      equals(point.u, ocp.solution.u, 1e-8);
      if (fixed) equals(point.y, ocp.solution.y, 1e-7);
    }
  }
});

}  // namespace

int main() { return run_facts(); }
