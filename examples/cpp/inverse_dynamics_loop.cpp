// A controller by inverse dynamics that Python has exported, at 1 kHz without Python: the tool of an arm moves on a
// circle, within limits of torques and joints.
//
//   python examples/cpp/export_inverse_dynamics.py controller
//   inverse_dynamics_loop controller 2000 trace.csv
//
// The plant is the model: it moves with the accelerations that the torques give.
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <limits>
#include <pinocchio/algorithm/joint-configuration.hpp>
#include <pinocchio/multibody.hpp>

#include "control_clock.hpp"
#include "qp_control/inverse_dynamics_controller.hpp"

using namespace qp_control;

namespace {

constexpr double period = 0.001;      // [s]
constexpr double radius = 0.1;        // [m]
constexpr double angular_rate = 4.0;  // [rad/s]

// The reference of a PositionTask on a circle in the y-z plane, from where it was exported.
class Circle {
 public:
  Circle(InverseDynamicsController& controller, const std::string& task)
      : reference_(controller.number(task + ".reference")),
        velocity_(controller.number(task + ".velocity")),
        acceleration_(controller.number(task + ".acceleration")),
        start_(reference_) {}

  void at(double time) {
    const double c = std::cos(angular_rate * time), s = std::sin(angular_rate * time);
    reference_ = start_ + radius * Eigen::Vector3d(0.0, s, c - 1.0);
    velocity_ = radius * angular_rate * Eigen::Vector3d(0.0, c, -s);
    acceleration_ = -radius * angular_rate * angular_rate * Eigen::Vector3d(0.0, s, c);
  }

 private:
  InverseDynamicsController::Numbers reference_, velocity_, acceleration_;
  const Eigen::Vector3d start_;
};

int run(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s FOLDER TICKS TRACE\n", argv[0]);
    return 2;
  }
  InverseDynamicsController controller(argv[1]);
  const pinocchio::Model& model = controller.model();
  Circle circle(controller, "tool");
  const int ticks = std::atoi(argv[2]);
  Eigen::VectorXd q = controller.number("posture.reference"), v = Eigen::VectorXd::Zero(model.nv);
  struct Row {
    Eigen::VectorXd q, v, torque;
    Status status;
  };
  std::vector<Row> trace(ticks);
  ControlClock clock(ticks, period);
  const ControlTick* tick = nullptr;
  clock.run(
      ticks,
      [&](int k) {
        circle.at(k * period);
        tick = &controller.tick(q.data(), v.data());
      },
      [&](int k) {
        trace[k] = {q, v, tick->torque, tick->status};
        v += period * tick->x.head(model.nv);
        q = pinocchio::integrate(model, q, Eigen::VectorXd(period * v));
      });
  clock.print();

  std::ofstream file(argv[3]);
  file.precision(std::numeric_limits<double>::max_digits10);
  for (const Row& row : trace) {
    for (const Eigen::VectorXd& values : {row.q, row.v, row.torque})
      for (const double value : values) file << value << ',';
    file << static_cast<int>(row.status) << '\n';
  }
  return file ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
