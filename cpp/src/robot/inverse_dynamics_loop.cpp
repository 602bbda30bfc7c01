#include "qp_control/inverse_dynamics_loop.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <pinocchio/multibody.hpp>
#include <set>
#include <stdexcept>
#include <string>

#include "evaluator.hpp"
#include "lower_levels.hpp"
#include "soft_rows.hpp"
#include "whole_body_rows.hpp"

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

// The levels that costs have, the first one in any case.
std::vector<int> levels_of(const WholeBodySettings& parts) {
  std::set<int> levels{1};
  for (const Term& term : parts.terms)
    if (!term.hard) levels.insert(term.level);
  return {levels.begin(), levels.end()};
}

}  // namespace

struct InverseDynamicsLoop::Implementation {
  Implementation(const pinocchio::Model& model, WholeBodySettings s, const DenseQpMaker& qps, LoopOptions given)
      : parts(std::move(s)),
        options(std::move(given)),
        units(units_of(model)),
        robot(model),
        rows(robot, parts),
        dims(dims_of(rows.sizes())),
        solver(qps),
        first(solver.make(dims)),
        point(dims),
        levels(levels_of(parts)),
        q(robot.nq()),
        numbers(parts.numbers),
        x(dims.n),
        shift_lower(dims.n_eq + dims.n_in + dims.n),
        shift_upper(shift_lower) {
    const auto check = [](const std::vector<double>& values, long expected, const char* name) {
      if (values.empty() || static_cast<long>(values.size()) == expected) return;
      throw std::invalid_argument(std::string(name) + " has " + std::to_string(values.size()) + " numbers, expected " +
                                  std::to_string(expected));
    };
    check(options.shift_weights, dims.rows(), "shift_weights");
    check(options.parameters, robot.n_par(), "parameters");
    const VectorXd nominal = robot.nominal_parameters();
    robot.set_parameters(nominal.data());
    mass = robot.mass();
    if (options.parameters.empty()) options.parameters.assign(nominal.data(), nominal.data() + nominal.size());
    robot.set_parameters(options.parameters.data());
    weights = Eigen::Map<const VectorXd>(options.shift_weights.data(), options.shift_weights.size());
    if (weights.size() > 0) make_soft_rows();
    if (levels.size() > 1)
      lower = std::make_unique<LowerLevels>(static_cast<int>(levels.size()) - 1, dims.n, dims.n_in, solver);
    // Somewhere, for the memory that it takes.
    q = robot.neutral();
    numbers.setZero();
    const VectorXd rest = VectorXd::Zero(robot.nv());
    rows.problem(q.data(), rest.data(), numbers.data(), matrices);
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

  void take_numbers(const double* given) {
    numbers = Eigen::Map<const VectorXd>(given, numbers.size());
    for (const Term& term : parts.terms)
      if (term.kind == TermKind::posture)
        for (const Unit& unit : units) {
          auto part = numbers.segment(term.reference + unit.first, unit.size);
          part /= part.norm();  // of one without length, no number: invalid input
        }
  }

  void take_parameters(const double* given) {
    if (given == nullptr && own_parameters) return;
    own_parameters = given == nullptr;
    robot.set_parameters(own_parameters ? options.parameters.data() : given);
  }

  // Leaves x, the shifts and the status of the tick.
  void solve(const double* v) {
    rows.problem(q.data(), v, numbers.data(), matrices, levels.front());
    const WholeBodyMatrices& m = matrices;
    if (weights.size() == 0) {
      weights = shift_weights(parts, m, numbers.data(), robot.nv(), mass, options.torque_shift_weight);
      make_soft_rows();
    }
    tick.iterations = 0;
    tick.status = first_level();
    if (tick.status > Status::CLOSEST_FEASIBLE || levels.size() == 1) return;
    const int n_eq = dims.n_eq, n_in = dims.n_in;
    matrices.l -= shift_lower.segment(n_eq, n_in);
    matrices.u += shift_upper.segment(n_eq, n_in);
    matrices.lb -= shift_lower.tail(dims.n);
    matrices.ub += shift_upper.tail(dims.n);
    const auto cost = [this](int k, RowMajor& H, VectorXd& g) { rows.cost(levels[k + 1], matrices.T, H, g); };
    const Status below = lower->solve(m.A, {m.H, m.g, m.C, m.l, m.u, m.lb, m.ub}, cost, x, tick.iterations);
    tick.status = std::max(tick.status, below);
  }

  Status first_level() {
    const WholeBodyMatrices& m = matrices;
    DenseQP qp;
    qp.dims = dims;
    for (auto [to, from] : {std::pair(&qp.H, &m.H), {&qp.A, &m.A}, {&qp.C, &m.C}}) *to = from->data();
    for (auto [to, from] :
         {std::pair(&qp.g, &m.g), {&qp.b, &m.b}, {&qp.l, &m.l}, {&qp.u, &m.u}, {&qp.lb, &m.lb}, {&qp.ub, &m.ub}})
      *to = from->data();
    qp.weight_eq = weights.data();
    qp.weight_in = qp.weight_eq + dims.n_eq;
    qp.weight_box = qp.weight_in + dims.n_in;
    const DenseOutcome of = first->solve(qp, warm, point.view());
    tick.iterations += of.iterations;
    warm = of.status <= Status::CLOSEST_FEASIBLE;
    if (warm) {
      x = point.x;
      shift_lower = point.shift_lower;
      shift_upper = point.shift_upper;
    }
    if (of.status != Status::MAX_ITER && of.status != Status::NUMERICAL_ERROR) return of.status;
    const Status found = soft->solve(m, x, shift_upper, tick.iterations);
    shift_lower = shift_upper.cwiseMax(0.0);
    shift_upper = (-shift_upper).cwiseMax(0.0);
    return found == Status::SOLVED ? Status::CLOSEST_FEASIBLE : found;
  }

  void make_soft_rows() {
    VectorXd usual = VectorXd::Constant(dims.n, mass * gravity);
    usual.head(robot.nv()).setConstant(gravity);
    soft = std::make_unique<SoftRows>(rows.sizes(), weights, usual, solver);
  }

  void store() {
    const WholeBodyMatrices& m = matrices;
    tick.x = x;
    tick.torque = m.t;
    tick.torque.noalias() += m.T * x;
    if (parts.torque_upper >= 0 && std::isinf(options.torque_shift_weight))
      tick.torque = tick.torque.cwiseMax(numbers.segment(parts.torque_lower, rows.nu()))
                        .cwiseMin(numbers.segment(parts.torque_upper, rows.nu()));
    // The shift of an equality is upper minus lower.
    const int size = static_cast<int>(tick.shift.size());
    tick.shift = shift_lower.head(size).cwiseMax(shift_upper.head(size));
  }

  // Forgets the tick before but for its torques.
  void forget() {
    warm = false;
    if (lower) lower->reset();
  }

  const WholeBodySettings parts;
  LoopOptions options;
  const std::vector<Unit> units;
  Evaluator robot;
  WholeBodyRows rows;
  const DenseDims dims;
  const DenseQpMaker& solver;
  const std::unique_ptr<DenseQps> first;  // level
  QpPoint point;                          // its solution
  WholeBodyMatrices matrices;
  const std::vector<int> levels;
  std::unique_ptr<LowerLevels> lower;  // of more than one
  std::unique_ptr<SoftRows> soft;
  double mass = 0.0;
  VectorXd q, numbers, weights, x, shift_lower, shift_upper;
  ControlTick tick;
  bool warm = false;
  bool own_parameters = true;  // the robot has those of the options
};

InverseDynamicsLoop::InverseDynamicsLoop(const pinocchio::Model& model, WholeBodySettings parts,
                                         const DenseQpMaker& solver, LoopOptions options)
    : implementation_(new Implementation(model, std::move(parts), solver, std::move(options))) {}
InverseDynamicsLoop::~InverseDynamicsLoop() = default;

WholeBodySizes InverseDynamicsLoop::sizes() const { return implementation_->rows.sizes(); }

void InverseDynamicsLoop::reset() {
  implementation_->forget();
  implementation_->tick.torque.setZero();
}

const ControlTick& InverseDynamicsLoop::tick(const double* q, const double* v, const double* numbers,
                                             const double* parameters) {
  Implementation& s = *implementation_;
  s.tick.status = Status::INVALID_INPUT;
  s.tick.iterations = 0;
  if (s.take(q, v)) {
    s.take_numbers(numbers);
    s.take_parameters(parameters);
    s.solve(v);
  }
  if (s.tick.status <= Status::CLOSEST_FEASIBLE)
    s.store();
  else
    s.forget();
  return s.tick;
}

}  // namespace qp_control
