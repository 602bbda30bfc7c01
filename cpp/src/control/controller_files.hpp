// What the files of an exported controller by inverse dynamics say.
#pragma once

#include <map>
#include <pinocchio/multibody.hpp>
#include <string>

#include "qp_control/inverse_dynamics_loop.hpp"

namespace qp_control {

struct ControllerFiles {
  struct Place {
    int first, size;
  };

  pinocchio::Model model;
  WholeBodySettings parts;
  Settings settings;  // of the solver
  LoopOptions options;
  NumberList numbers;
  std::map<std::string, Place> places;  // of the numbers, by name
};

// Throws std::runtime_error.
ControllerFiles read_controller(const std::string& folder);

}  // namespace qp_control
