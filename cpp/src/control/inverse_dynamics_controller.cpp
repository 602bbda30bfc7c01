#include "qp_control/inverse_dynamics_controller.hpp"

#include <stdexcept>

#include "controller_files.hpp"

namespace qp_control {

struct InverseDynamicsController::Implementation {
  explicit Implementation(const std::string& folder)
      : files(read_controller(folder)),
        solver(dense_qp_maker(files.settings)),
        loop(files.model, files.parts, *solver, files.options) {}

  ControllerFiles files;
  const std::unique_ptr<DenseQpMaker> solver;
  InverseDynamicsLoop loop;
};

InverseDynamicsController::InverseDynamicsController(const std::string& folder) {
  try {
    implementation_ = std::make_unique<Implementation>(folder);
  } catch (const std::invalid_argument& error) {  // of sizes that do not fit together
    throw std::runtime_error(folder + ": " + error.what());
  }
}
InverseDynamicsController::~InverseDynamicsController() = default;

const pinocchio::Model& InverseDynamicsController::model() const { return implementation_->files.model; }
const std::vector<int>& InverseDynamicsController::actuated() const { return implementation_->files.parts.actuated; }

InverseDynamicsController::Numbers InverseDynamicsController::number(const std::string& name) {
  ControllerFiles& files = implementation_->files;
  const auto found = files.places.find(name);
  if (found == files.places.end()) throw std::invalid_argument("the controller has no number " + name);
  return {&files.numbers[found->second.first], found->second.size};
}

std::vector<std::string> InverseDynamicsController::names() const {
  std::vector<std::string> out;
  for (const auto& [name, place] : implementation_->files.places) out.push_back(name);
  return out;
}

const ControlTick& InverseDynamicsController::tick(const double* q, const double* v) {
  return implementation_->loop.tick(q, v, implementation_->files.numbers.data());
}
void InverseDynamicsController::reset() { implementation_->loop.reset(); }

}  // namespace qp_control
