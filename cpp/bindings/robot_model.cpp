// Pinocchio sets limits of Boost's preprocessor lists and comes before any other header of Boost.
#include <pinocchio/multibody.hpp>
//
#include <boost/python/extract.hpp>

#include "robot_model.hpp"

namespace qp_control {

RobotModel robot_model(const pybind11::object& model) {
  boost::python::extract<const pinocchio::Model&> extracted(model.ptr());
  if (!extracted.check()) throw pybind11::type_error("model is not a pinocchio.Model");
  const pinocchio::Model& m = extracted();
  return {std::make_shared<const pinocchio::Model>(m), m.nq, m.nv, 10 * (m.njoints - 1) + m.nv};
}

}  // namespace qp_control
