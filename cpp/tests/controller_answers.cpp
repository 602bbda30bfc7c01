// What an exported controller by inverse dynamics answers to states, for a comparison with Python's answers.
//
//   controller_answers FOLDER STATES ANSWERS [NUMBER]
//
// STATES: a line each, q and v, and the values of NUMBER at this tick where one is named. ANSWERS: torques, x, shifts,
// status and allocations of the tick, in the same order.
#include <cstdio>
#include <exception>
#include <fstream>
#include <limits>
#include <pinocchio/multibody.hpp>
#include <string>

#include "allocations.hpp"
#include "qp_control/inverse_dynamics_controller.hpp"

using namespace qp_control;

namespace {

int run(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s FOLDER STATES ANSWERS [NUMBER]\n", argv[0]);
    return 2;
  }
  InverseDynamicsController controller(argv[1]);
  const pinocchio::Model& model = controller.model();
  using Numbers = InverseDynamicsController::Numbers;
  Numbers number = argc > 4 ? controller.number(argv[4]) : Numbers(nullptr, 0);
  Eigen::VectorXd state(model.nq + model.nv);
  std::ifstream states(argv[2]);
  std::ofstream answers(argv[3]);
  answers.precision(std::numeric_limits<double>::max_digits10);
  const auto read = [&](auto& values) {
    for (double& value : values) {
      std::string word;  // streams do not read "nan"
      if (!(states >> word)) return false;
      value = std::stod(word);
    }
    return true;
  };
  while (read(state) && read(number)) {
    const ControlTick* tick = nullptr;
    const int allocated = allocations_of([&] { tick = &controller.tick(state.data(), state.data() + model.nq); });
    for (const Eigen::VectorXd& values : {tick->torque, tick->x, tick->shift})
      for (const double value : values) answers << value << ' ';
    answers << static_cast<int>(tick->status) << ' ' << allocated << '\n';
  }
  return answers ? 0 : 1;
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
