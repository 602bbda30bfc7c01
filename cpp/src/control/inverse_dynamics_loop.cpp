#include "qp_control/inverse_dynamics_loop.hpp"

#include <cmath>
#include <limits>
#include <pinocchio/multibody.hpp>

#include "../robot/evaluator.hpp"
#include "../robot/whole_body_rows.hpp"
#include "qp_control/deadline.hpp"
#include "qp_control/dense_solver.hpp"

namespace qp_control {

using Eigen::VectorXd;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double gravity = 9.81;  // [m/s^2], what an acceleration is measured by

// Where a configuration has a direction, a quaternion or (cos, sin): its first number and its size.
struct Unit {
  int first, size;
};

std::vector<Unit> units_of(const pinocchio::Model& model) {
  std::vector<Unit> units;
  for (std::size_t j = 1; j < model.joints.size(); ++j) {
    const auto& joint = model.joints[j];
    const int extra = joint.nq() - joint.nv();
    if (extra == 0) continue;
    const bool angle = joint.nv() == 1 || joint.shortname() == "JointModelPlanar";
    const int size = angle ? 2 : 4;
    units.push_back({joint.idx_q() + joint.nq() - size, size});
  }
  return units;
}

// Of the rows of A, C and x: infinite where they hold exactly, else one over the square of what is usual.
VectorXd shift_weights(const WholeBodySettings& parts, const WholeBodyMatrices& at, const double* numbers, int nv,
                       double mass, double torque_shift_weight) {
  const double acceleration = 1.0 / (gravity * gravity), force = 1.0 / std::pow(mass * gravity, 2);
  const int nu = static_cast<int>(parts.actuated.size());
  std::vector<double> rows(nv - nu, infinity);
  for (const Term& term : parts.terms)
    if (term.hard) rows.insert(rows.end(), term.rows.size(), acceleration * term.shift_weight);
  for (int k = 0; k < (parts.torque_upper < 0 ? 0 : nu); ++k) {
    const double half = 0.5 * (numbers[parts.torque_upper + k] - numbers[parts.torque_lower + k]);
    const double scale = half > 0.0 && std::isfinite(half) ? half : 1.0;
    rows.push_back(torque_shift_weight / (scale * scale));
  }
  for (const Support& s : parts.supports)
    rows.insert(rows.end(), s.points.size() * s.directions.size() + 1, force * s.shift_weight);
  for (const Barrier& b : parts.barriers) rows.push_back(acceleration * b.shift_weight);
  const std::size_t box = rows.size();
  rows.resize(box + at.lb.size(), 1.0);
  for (const JointBounds& b : parts.bounds)
    for (int i : b.v) rows[box + i] = acceleration * b.shift_weight;
  return Eigen::Map<VectorXd>(rows.data(), rows.size());
}

DenseDims dims_of(WholeBodySizes s) { return {s.n, s.n_eq, s.n_in}; }

}  // namespace

struct InverseDynamicsLoop::Implementation {
  Implementation(const pinocchio::Model& model, WholeBodySettings s, Settings solver_settings, double torque_weight)
      : parts(std::move(s)),
        settings(solver_settings),
        torque_shift_weight(torque_weight),
        units(units_of(model)),
        robot(model),
        rows(robot, parts),
        dims(dims_of(rows.sizes())),
        solver(dims),
        solution(dims.n, dims.rows()),
        q(robot.nq()) {
    settings.closest = true;
    robot.set_parameters(robot.nominal_parameters().data());
    matrices.resize(rows.sizes(), rows.nu());
    tick.torque.setZero(rows.nu());
    tick.x.setZero(dims.n);
    tick.shift.setZero(dims.n_eq + dims.n_in + robot.nv());
  }

  // False where the state is none.
  bool take(const double* given, const double* v) {
    q = Eigen::Map<const VectorXd>(given, robot.nq());
    if (!q.allFinite() || !Eigen::Map<const VectorXd>(v, robot.nv()).allFinite()) return false;
    for (const Unit& unit : units) {
      auto part = q.segment(unit.first, unit.size);
      const double length = part.norm();
      if (!(length > 1e-6 && length < 1e6)) return false;
      part /= length;
    }
    return true;
  }

  void solve(const double* v, const double* numbers) {
    rows.problem(q.data(), v, numbers, matrices);
    const WholeBodyMatrices& m = matrices;
    if (weights.size() == 0) weights = shift_weights(parts, m, numbers, robot.nv(), robot.mass(), torque_shift_weight);
    DenseQP qp;
    qp.dims = dims;
    for (auto [to, from] : {std::pair(&qp.H, &m.H), {&qp.A, &m.A}, {&qp.C, &m.C}}) *to = from->data();
    for (auto [to, from] :
         {std::pair(&qp.g, &m.g), {&qp.b, &m.b}, {&qp.l, &m.l}, {&qp.u, &m.u}, {&qp.lb, &m.lb}, {&qp.ub, &m.ub}})
      *to = from->data();
    qp.weight_eq = weights.data();
    qp.weight_in = qp.weight_eq + dims.n_eq;
    qp.weight_box = qp.weight_in + dims.n_in;
    solver.solve(qp, settings, Deadline(settings.time_limit), warm, solution);
  }

  void store(const double* numbers) {
    const WholeBodyMatrices& m = matrices;
    tick.x = solution.x;
    tick.torque = m.t;
    tick.torque.noalias() += m.T * solution.x;
    if (parts.torque_upper >= 0 && std::isinf(torque_shift_weight)) {
      const Eigen::Map<const VectorXd> lower(numbers + parts.torque_lower, rows.nu()),
          upper(numbers + parts.torque_upper, rows.nu());
      tick.torque = tick.torque.cwiseMax(lower).cwiseMin(upper);
    }
    // The shift of an equality is upper minus lower.
    const int size = static_cast<int>(tick.shift.size());
    tick.shift = solution.shift_lower.head(size).cwiseMax(solution.shift_upper.head(size));
  }

  const WholeBodySettings parts;
  Settings settings;
  const double torque_shift_weight;
  const std::vector<Unit> units;
  Evaluator robot;
  WholeBodyRows rows;
  const DenseDims dims;
  DenseSolver solver;
  Solution solution;
  WholeBodyMatrices matrices;
  VectorXd q, weights;
  ControlTick tick;
  bool warm = false;
};

InverseDynamicsLoop::InverseDynamicsLoop(const pinocchio::Model& model, WholeBodySettings parts, Settings settings,
                                         double torque_shift_weight)
    : implementation_(new Implementation(model, std::move(parts), settings, torque_shift_weight)) {}
InverseDynamicsLoop::~InverseDynamicsLoop() = default;

WholeBodySizes InverseDynamicsLoop::sizes() const { return implementation_->rows.sizes(); }

void InverseDynamicsLoop::reset() {
  implementation_->warm = false;
  implementation_->tick.torque.setZero();
}

const ControlTick& InverseDynamicsLoop::tick(const double* q, const double* v, const double* numbers) {
  Implementation& s = *implementation_;
  s.tick.status = Status::INVALID_INPUT;
  s.tick.iterations = 0;
  if (s.take(q, v)) {
    s.solve(v, numbers);
    s.tick.status = s.solution.status;
    s.tick.iterations = s.solution.iterations;
  }
  s.warm = s.tick.status <= Status::CLOSEST_FEASIBLE;
  if (s.warm) s.store(numbers);
  return s.tick;
}

}  // namespace qp_control
