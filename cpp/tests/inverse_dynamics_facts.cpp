// A controller by inverse dynamics in C++ alone: what its ticks say, and that they allocate nothing.
#include <functional>
#include <limits>
#include <pinocchio/algorithm/joint-configuration.hpp>
#include <pinocchio/multibody.hpp>
#include <string>

#include "../src/robot/evaluator.hpp"
#include "../src/robot/whole_body_rows.hpp"
#include "allocations.hpp"
#include "check.hpp"
#include "qp_control/inverse_dynamics_loop.hpp"

using namespace qp_control;
using Eigen::Vector3d;
using Eigen::VectorXd;

namespace {

constexpr double weight = 12.4 * 9.81;

std::unique_ptr<DenseQpMaker> solver_of(int max_iter) {
  Settings settings;
  settings.closest = true;
  settings.reduced_eps_rel = 1e-10;
  settings.max_iter = max_iter;
  return dense_qp_maker(settings);
}

const auto solver = solver_of(2000);

// One that has a single step for the QPs that `at` names.
class Hurried final : public DenseQpMaker {
 public:
  using Which = std::function<bool(DenseDims dims, bool certify)>;
  explicit Hurried(Which at) : at_(std::move(at)) {}
  std::unique_ptr<DenseQps> make(DenseDims dims, bool certify) const override {
    return (at_(dims, certify) ? *single_ : *solver).make(dims, certify);
  }

 private:
  const Which at_;
  const std::unique_ptr<DenseQpMaker> single_ = solver_of(1);
};

// But for those of rows that are paid for.
const Hurried gives_up([](DenseDims, bool certify) { return !certify; });
// Those of lower levels, which have no equalities.
const Hurried gives_up_below([](DenseDims dims, bool) { return dims.n_eq == 0; });

// A trunk with four legs of three joints, and the frame of each foot.
struct Quadruped {
  Quadruped() {
    const auto at = [](double x, double y, double z) {
      return pinocchio::SE3(Eigen::Matrix3d::Identity(), Vector3d(x, y, z));
    };
    const auto add = [&](int parent, const pinocchio::JointModel& joint, const std::string& name, pinocchio::SE3 place,
                         double mass, Vector3d size, Vector3d centre) {
      const auto index = model.addJoint(parent, joint, place, name);
      model.appendBodyToJoint(index, pinocchio::Inertia::FromBox(mass, size[0], size[1], size[2]),
                              at(centre[0], centre[1], centre[2]));
      return static_cast<int>(index);
    };
    const int base =
        add(0, pinocchio::JointModelFreeFlyer(), "base", at(0, 0, 0), 8.0, {0.4, 0.2, 0.1}, Vector3d::Zero());
    trunk = frame("trunk", base, at(0, 0, 0));
    for (const double x : {0.2, -0.2})
      for (const double side : {1.0, -1.0}) {
        const std::string leg = (side > 0 ? "l" : "r") + std::string(x > 0 ? "f" : "h");
        const int hip = add(base, pinocchio::JointModelRX(), leg + " hip", at(x, 0.1 * side, 0), 0.3,
                            {0.08, 0.08, 0.08}, Vector3d::Zero());
        const int thigh = add(hip, pinocchio::JointModelRY(), leg + " thigh", at(0, 0.05 * side, 0), 0.6,
                              {0.05, 0.05, 0.2}, {0, 0, -0.1});
        const int knee =
            add(thigh, pinocchio::JointModelRY(), leg + " knee", at(0, 0, -0.2), 0.2, {0.03, 0.03, 0.2}, {0, 0, -0.1});
        feet.push_back(frame(leg + " foot", knee, at(0, 0, -0.2)));
      }
    stand = pinocchio::neutral(model);
    for (int leg = 0; leg < 4; ++leg) {
      stand[7 + 3 * leg + 1] = 0.6;
      stand[7 + 3 * leg + 2] = -1.2;
    }
  }

  int frame(const std::string& name, int joint, const pinocchio::SE3& place) {
    return static_cast<int>(model.addFrame(pinocchio::Frame(name, joint, place, pinocchio::FrameType::OP_FRAME)));
  }

  pinocchio::Model model;
  std::vector<int> feet;
  int trunk;
  VectorXd stand;
};

// It keeps its centre of mass and trunk, with every kind of part; torques within `limit`.
struct Controller {
  Controller(const Quadruped& robot, double limit) {
    const auto follow = [&](Term term, int rows, double weight, double stiffness, const std::vector<double>& reference,
                            int velocities) {
      term.weight = numbers.add(rows, weight);
      term.stiffness = numbers.add(rows, stiffness);
      term.damping = numbers.add(rows, 2.0 * std::sqrt(stiffness));
      term.reference = numbers.add(reference);
      term.velocity = numbers.add(velocities, 0.0);
      term.acceleration = numbers.add(velocities, 0.0);
      parts.terms.push_back(term);
    };
    const int nv = robot.model.nv;
    for (int i = 6; i < nv; ++i) parts.actuated.push_back(i);
    follow({TermKind::centre_of_mass, {0, 1, 2}}, 3, 10.0, 100.0, {0.0, 0.0, -0.04}, 3);
    Term trunk{TermKind::frame, {0, 1, 2}};
    trunk.frame = robot.trunk;
    trunk.orientation = true;
    follow(trunk, 3, 5.0, 100.0, {0.0, 0.0, 0.0, 1.0}, 3);
    follow({TermKind::posture, parts.actuated}, nv - 6, 0.5, 100.0,
           std::vector<double>(robot.stand.data(), robot.stand.data() + robot.stand.size()), nv);
    Term spin{TermKind::angular_momentum, {0, 1, 2}};
    spin.weight = numbers.add(3, 1e-2);
    spin.damping = numbers.add(3, 5.0);
    spin.reference = numbers.add(3, 0.0);
    spin.acceleration = numbers.add(3, 0.0);
    parts.terms.push_back(spin);
    const auto small = [&](TermKind kind, int first, int count) {
      Term term{kind, {}};
      for (int k = 0; k < count; ++k) term.rows.push_back(k);
      term.first = first;
      term.weight = numbers.add(count, 1e-3);
      term.reference = numbers.add(count, 0.0);
      parts.terms.push_back(term);
    };
    small(TermKind::torque, 0, nv - 6);
    small(TermKind::selection, nv, 12);
    int first = nv;
    for (int foot : robot.feet) {
      Term stay{TermKind::frame, {0, 1, 2}};
      stay.frame = foot;
      stay.position = true;
      stay.weight = numbers.add(3, 1e3);
      stay.activation = numbers.add(1, 1.0);
      stay.stiffness = numbers.add(3, 0.0);
      stay.damping = numbers.add(3, 20.0);
      stay.reference = numbers.add(3, 0.0);
      parts.terms.push_back(stay);
      Support s{};
      s.frame = foot;
      s.first = first;
      s.points = {Vector3d::Zero()};
      s.directions = {Vector3d::UnitX(), -Vector3d::UnitX(), Vector3d::UnitY(), -Vector3d::UnitY()};
      s.normal = Vector3d::UnitZ();
      s.activation = stay.activation;
      s.friction = numbers.add(1, 0.6);
      s.min_force = numbers.add(1, 0.0);
      s.max_force = numbers.add(1, 500.0);
      parts.supports.push_back(s);
      first += 3;
    }
    JointBounds bounds{BoundKind::position, {}, parts.actuated, 0.001, 0.1};
    for (int i : parts.actuated) bounds.q.push_back(i + 1);
    bounds.lower = numbers.add(nv - 6, -2.0);
    bounds.upper = numbers.add(nv - 6, 2.0);
    bounds.acceleration = numbers.add(nv - 6, 300.0);
    parts.bounds.push_back(bounds);
    Barrier floor{BarrierKind::plane, robot.trunk, 0};
    floor.normal = Vector3d::UnitZ();
    floor.stiffness = numbers.add(1, 100.0);
    floor.damping = numbers.add(1, 20.0);
    floor.distance = numbers.add(1, -0.2);
    parts.barriers.push_back(floor);
    Barrier apart{BarrierKind::frame, robot.feet[0], robot.feet[1]};
    apart.normal.setZero();
    apart.stiffness = numbers.add(1, 100.0);
    apart.damping = numbers.add(1, 20.0);
    apart.distance = numbers.add(1, 0.05);
    parts.barriers.push_back(apart);
    parts.torque_lower = numbers.add(nv - 6, -limit);
    parts.torque_upper = numbers.add(nv - 6, limit);
    parts.numbers = numbers.size();
  }

  NumberList numbers;
  WholeBodySettings parts;
};

// States near the stance, the k-th of a sequence
void state(const Quadruped& robot, int k, VectorXd& q, VectorXd& v) {
  for (int i = 0; i < v.size(); ++i) v[i] = 0.1 * std::sin(0.01 * k + i);
  q = pinocchio::integrate(robot.model, robot.stand, VectorXd(0.1 * v));
}

const Register ticks_allocate_nothing("a tick allocates nothing, with every kind of part", [] {
  const Quadruped robot;
  Controller controller(robot, 30.0);
  InverseDynamicsLoop loop(robot.model, controller.parts, *solver);
  VectorXd q(robot.model.nq), v(robot.model.nv);
  int most = 0;
  for (int k = 0; k < 200; ++k) {
    state(robot, k, q, v);
    int counted = 0;
    const ControlTick* tick = nullptr;
    counted = allocations_of([&] { tick = &loop.tick(q.data(), v.data(), controller.numbers.data()); });
    check(tick->status == Status::SOLVED, "solved");
    if (k > 0) most = std::max(most, counted);  // the first one makes the weights of the shifts
  }
  check(most == 0, "no tick allocates");
});

const Register closest_ticks_allocate_once("ticks whose limits contradict each other allocate once", [] {
  const Quadruped robot;
  Controller controller(robot, 30.0);
  for (const Support& s : controller.parts.supports) {
    controller.numbers[s.min_force] = 40.0;
    controller.numbers[s.max_force] = 30.0;
  }
  InverseDynamicsLoop loop(robot.model, controller.parts, *solver);
  VectorXd q(robot.model.nq), v(robot.model.nv);
  int later = 0;
  for (int k = 0; k < 20; ++k) {
    state(robot, k, q, v);
    const ControlTick* tick = nullptr;
    const int counted = allocations_of([&] { tick = &loop.tick(q.data(), v.data(), controller.numbers.data()); });
    check(tick->status == Status::CLOSEST_FEASIBLE, "closest feasible");
    check(tick->torque.cwiseAbs().maxCoeff() <= 30.0, "torques within their limits");
    // Least squares of the two are the middle.
    check_close(tick->shift.maxCoeff(), 5.0, 1e-6, "the normal forces gave way");
    if (k > 0) later += counted;
  }
  check(later == 0, "no later tick allocates");
});

const Register weight_is_carried("at rest the feet carry the weight, warm and cold, whatever the quaternion's length",
                                 [] {
                                   const Quadruped robot;
                                   Controller controller(robot, 30.0);
                                   InverseDynamicsLoop loop(robot.model, controller.parts, *solver);
                                   const VectorXd v = VectorXd::Zero(robot.model.nv);
                                   VectorXd q = robot.stand;
                                   VectorXd cold;
                                   for (int k = 0; k < 3; ++k) {
                                     q.segment<4>(3) *= 3.0;
                                     const ControlTick& tick = loop.tick(q.data(), v.data(), controller.numbers.data());
                                     double up = 0.0;
                                     for (int foot = 0; foot < 4; ++foot) up += tick.x[robot.model.nv + 3 * foot + 2];
                                     // Up to what regularisation trades for smaller forces and torques.
                                     check_close(up, weight, 0.05 * weight, "normal forces");
                                     if (k == 0) cold = tick.torque;
                                     // The solution is exact to the tolerance of the solver, 1e-8, over the smallest
                                     // curvature, 1e-3.
                                     check((tick.torque - cold).cwiseAbs().maxCoeff() < 1e-4,
                                           "the same from a warm start");
                                     check(k == 0 || tick.iterations <= 3, "which saves steps");
                                   }
                                 });

const Register broken_states_repeat("a state that is none repeats the torques before", [] {
  const Quadruped robot;
  Controller controller(robot, 30.0);
  InverseDynamicsLoop loop(robot.model, controller.parts, *solver);
  VectorXd q(robot.model.nq), v(robot.model.nv);
  state(robot, 3, q, v);
  const VectorXd before = loop.tick(q.data(), v.data(), controller.numbers.data()).torque;
  check(before.cwiseAbs().maxCoeff() > 1.0, "some torques");
  VectorXd none = q;
  none[9] = std::numeric_limits<double>::quiet_NaN();
  VectorXd zero = q;
  zero.segment<4>(3).setZero();
  for (const VectorXd& bad : {none, zero}) {
    const ControlTick& tick = loop.tick(bad.data(), v.data(), controller.numbers.data());
    check(tick.status == Status::INVALID_INPUT, "says so");
    check(tick.torque == before, "the same torques");
  }
  loop.reset();
  check(loop.tick(none.data(), v.data(), controller.numbers.data()).torque.isZero(), "none before");
  check(loop.tick(q.data(), v.data(), controller.numbers.data()).status == Status::SOLVED, "and it goes on");
});

const Register broken_numbers_repeat("numbers that are none repeat the torques before, and drop no limit", [] {
  const Quadruped robot;
  Controller controller(robot, 30.0);
  InverseDynamicsLoop loop(robot.model, controller.parts, *solver);
  VectorXd q(robot.model.nq), v(robot.model.nv);
  state(robot, 3, q, v);
  const VectorXd before = loop.tick(q.data(), v.data(), controller.numbers.data()).torque;
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const JointBounds& joints = controller.parts.bounds.front();
  const std::vector<std::pair<int, double>> bad{{joints.upper, nan},
                                                {joints.acceleration, infinity},
                                                {joints.acceleration, 0.0},
                                                {controller.parts.barriers[0].distance, -infinity}};
  const auto refuse = [&](const VectorXd& numbers) {
    const ControlTick& tick = loop.tick(q.data(), v.data(), numbers.data());
    check(tick.status == Status::INVALID_INPUT, "says so");
    check(tick.torque == before, "the same torques");
  };
  const VectorXd good = Eigen::Map<const VectorXd>(controller.numbers.data(), controller.parts.numbers);
  for (auto [index, value] : bad) {
    VectorXd numbers = good;
    numbers[index] = value;
    refuse(numbers);
  }
  VectorXd numbers = good;
  numbers.segment<4>(controller.parts.terms[1].reference).setZero();  // a quaternion that has no direction
  refuse(numbers);
});

const Register levels_allocate_nothing(
    "a tick of three strict levels allocates nothing, and each meets what is left", [] {
      const Quadruped robot;
      Controller controller(robot, 30.0);
      // Centre of mass and contacts, then the trunk, then all else.
      for (std::size_t k = 1; k < 6; ++k) controller.parts.terms[k].level = 3;
      controller.parts.terms[1].level = 2;
      InverseDynamicsLoop loop(robot.model, controller.parts, *solver);
      VectorXd q(robot.model.nq), v(robot.model.nv);
      int most = 0;
      for (int k = 0; k < 200; ++k) {
        state(robot, k, q, v);
        const ControlTick* tick = nullptr;
        const int counted = allocations_of([&] { tick = &loop.tick(q.data(), v.data(), controller.numbers.data()); });
        check(tick->status == Status::SOLVED, "solved");
        check(tick->torque.cwiseAbs().maxCoeff() <= 30.0, "torques within their limits");
        if (k > 0) most = std::max(most, counted);
      }
      check(most == 0, "no tick allocates");
    });

const Register unfinished_levels("a level that is not finished takes the part of its step that the rows allow", [] {
  const Quadruped robot;
  Controller controller(robot, 12.0);
  for (std::size_t k = 1; k < 6; ++k) controller.parts.terms[k].level = 2;
  InverseDynamicsLoop exact(robot.model, controller.parts, *solver);
  InverseDynamicsLoop stopped(robot.model, controller.parts, gives_up_below);
  VectorXd q(robot.model.nq), v(robot.model.nv);
  int moved = 0;
  for (int k = 0; k < 50; ++k) {
    state(robot, 7 * k, q, v);
    const ControlTick& all = exact.tick(q.data(), v.data(), controller.numbers.data());
    const ControlTick& part = stopped.tick(q.data(), v.data(), controller.numbers.data());
    check(all.status == Status::SOLVED, "solved");
    check(part.status == Status::CLOSEST_FEASIBLE, "not finished");
    check(part.torque.cwiseAbs().maxCoeff() <= 12.0, "torques within their limits");
    check(part.shift.isZero(1e-9), "nothing gives way");
    moved += (part.torque - all.torque).cwiseAbs().maxCoeff() > 1e-3;
  }
  check(moved > 0, "which is another answer");
});

const Register soft_rows("rows that are paid for give way nearly the least, and hard ones hold", [] {
  const Quadruped robot;
  Controller controller(robot, 3.0);
  // More than these torques can push.
  for (const Support& s : controller.parts.supports) {
    controller.numbers[s.min_force] = 2000.0;
    controller.numbers[s.max_force] = 5000.0;
  }
  VectorXd q(robot.model.nq), v(robot.model.nv);
  state(robot, 3, q, v);

  Evaluator evaluator(robot.model);
  evaluator.set_parameters(evaluator.nominal_parameters().data());
  WholeBodyRows rows(evaluator, controller.parts);
  WholeBodyMatrices m;
  rows.problem(q.data(), v.data(), controller.numbers.data(), m);
  const auto [n, n_eq, n_in] = rows.sizes();
  const int hard = n_eq + rows.nu();  // the dynamics and the torques
  LoopOptions options;
  options.shift_weights.assign(n_eq + n_in + n, 1e-2);
  std::fill_n(options.shift_weights.begin(), hard, std::numeric_limits<double>::infinity());
  InverseDynamicsLoop exact(robot.model, controller.parts, *solver, options);
  InverseDynamicsLoop paid(robot.model, controller.parts, gives_up, options);
  const ControlTick& least = exact.tick(q.data(), v.data(), controller.numbers.data());
  const ControlTick& found = paid.tick(q.data(), v.data(), controller.numbers.data());
  for (const ControlTick* tick : {&least, &found}) check(tick->status == Status::CLOSEST_FEASIBLE, "a contradiction");
  check(found.iterations > 1, "which takes steps");
  check(least.shift.norm() > 1.0, "rows have to give way");
  // The price is a million times the cost.
  check_close(found.shift.norm(), least.shift.norm(), 1e-3 * least.shift.norm(), "by the least");
  check((m.A * found.x - m.b).cwiseAbs().maxCoeff() < 1e-4, "the dynamics hold");
  check(found.shift.head(hard).isZero(), "as do torque limits");
});

const Register soft_rows_cost_little(
    "where nothing contradicts, rows that are paid for give way to hardly anything", [] {
      const Quadruped robot;
      Controller controller(robot, 30.0);
      InverseDynamicsLoop exact(robot.model, controller.parts, *solver);
      InverseDynamicsLoop paid(robot.model, controller.parts, gives_up);
      VectorXd q(robot.model.nq), v(robot.model.nv);
      state(robot, 3, q, v);
      const ControlTick& solved = exact.tick(q.data(), v.data(), controller.numbers.data());
      const ControlTick& found = paid.tick(q.data(), v.data(), controller.numbers.data());
      check(solved.status == Status::SOLVED && found.status == Status::CLOSEST_FEASIBLE, "the statuses say so");
      check((solved.torque - found.torque).cwiseAbs().maxCoeff() < 1e-2, "torques");
      check(found.shift.maxCoeff() < 1e-2, "shifts");
    });

const Register parameters_of_a_tick("a tick with parameters of its own is that of a robot that has them", [] {
  const Quadruped robot;
  Controller controller(robot, 30.0);
  Evaluator evaluator(robot.model);
  VectorXd heavier = evaluator.nominal_parameters();
  heavier[0] += 2.0;  // kg, of the trunk
  LoopOptions options;
  options.parameters.assign(heavier.data(), heavier.data() + heavier.size());
  InverseDynamicsLoop nominal(robot.model, controller.parts, *solver);
  InverseDynamicsLoop loaded(robot.model, controller.parts, *solver, options);
  VectorXd q(robot.model.nq), v(robot.model.nv);
  state(robot, 3, q, v);
  const auto torque = [&](InverseDynamicsLoop& loop, const double* parameters) {
    loop.reset();
    return VectorXd(loop.tick(q.data(), v.data(), controller.numbers.data(), parameters).torque);
  };
  const VectorXd light = torque(nominal, nullptr), heavy = torque(loaded, nullptr);
  check((light - heavy).cwiseAbs().maxCoeff() > 0.1, "the load matters");
  check(torque(nominal, heavier.data()) == heavy, "the same to the bit");
  check(torque(nominal, nullptr) == light, "and its own again after it");
});

}  // namespace

int main() { return run_facts(); }
