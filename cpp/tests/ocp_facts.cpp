// Facts about optimal-control QPs: the Riccati recursion against the dense solver.
#include "check.hpp"
#include "qp_control/ocp_batch.hpp"
#include "qp_control/ocp_dense.hpp"
#include "qp_control/ocp_derivatives_batch.hpp"
#include "qp_control/ocp_minimiser.hpp"
#include "random_ocp.hpp"

using namespace qp_control;

namespace {

BatchEnd solve(RandomOcp& ocp, const Settings& settings, bool warm = false) {
  return solve_ocp_batch(ocp.batch, settings, warm, ocp.solution, [] { return false; });
}

// The structured route's solution of element i, and the dense solver's.
std::pair<Solution, Solution> both(RandomOcp& ocp, int i) {
  OcpDense form(ocp.batch);
  const DenseDims d = form.dims();
  Solution structured(d.n, d.rows()), dense(d.n, d.rows());
  form.read_solution(ocp.solution, i, structured);
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

const Register equal_gradients("gradients equal those of the dense form, of shared data the sum", [] {
  for (const auto& [N, nx, nu] : {std::tuple{4, 3, 2}, {3, 20, 6}}) {
    RandomOcp ocp(N, nx, nu, 3);
    solve(ocp, Settings());
    OcpBatchSolution loss = ocp.fields();
    for (int k = 0; k < 3 * (N + 1) * nx; ++k) loss.x.data[k] = loss.y.data[k] = normal();
    for (int k = 0; k < 3 * N * nu; ++k) loss.u.data[k] = loss.w_u.data[k] = normal();
    for (int i = 0; i < 3; ++i) loss.objective.data[i] = normal();
    const auto gradients = [&] {
      OcpGradients out;
      for (const OcpField& field : ocp_fields) {
        const StageArray& from = ocp.batch.*field.data;
        if (from.data == nullptr) continue;
        const long size = std::max({nx * nx, nu * nx, nu * nu}) * 3L;
        out.*field.gradient = {ocp.constant(size, 0.0), from.batch, from.stage, from.first, size};
      }
      return out;
    };
    const OcpGradients structured = gradients(), dense = gradients();
    std::vector<double> residual(3);
    ocp_adjoint_batch(ocp.batch, ocp.solution, loss, {}, structured, {residual.data(), nullptr, nullptr});
    OcpDense form(ocp.batch);
    const DenseDims d = form.dims();
    StackedQP qp(d.n, d.n_eq + d.n_in);
    Solution solution(d.n, d.rows());
    OutputDerivative outputs(d.n, d.rows());
    DataDerivative data(d.n, d.n_eq + d.n_in);
    for (int i = 0; i < 3; ++i) {
      check(residual[i] < 1e-11, "certificate");
      stack(form.problem(ocp.batch, i), qp);
      form.read_solution(ocp.solution, i, solution);
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

const Register rescue_alone("the rescue alone finds the solutions of optimal-control QPs", [] {
  for (const auto& [N, nx, nu] : {std::tuple{6, 3, 2}, {40, 4, 1}, {5, 20, 6}}) {
    for (const bool fixed : {true, false}) {
      RandomOcp ocp(N, nx, nu, 1, fixed);
      solve(ocp, Settings());
      check(ocp.status[0] == 0, "solved");
      RiccatiKkt<double> kkt(ocp.batch);
      Equilibration scaling(kkt.unknowns(), kkt.rows());
      kkt.load(ocp.batch, 0, 1, scaling);
      Iterate it(kkt.unknowns(), kkt.rows());
      OcpInteriorPoint(kkt).run(kkt, 100, Deadline(0.0), it);
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
