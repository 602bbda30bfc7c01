// Control periods with contact for Python.
#include <pinocchio/multibody.hpp>
//
#include <pybind11/stl.h>

#include <array>
#include <boost/python/extract.hpp>
#include <tuple>
#include <utility>

#include "qp_control/contact.hpp"
#include "robot_arrays.hpp"

namespace qp_control {
namespace {

using Size = py::ssize_t;

// The arguments of one batch, checked.
struct Call {
  Call(const Size nx, const Size nu, const Size n_par, const Size contacts, const Array& x, const Array& u,
       const MaybeArray& par, const Array& friction)
      : batch(batch_of(x, "x")), x(data(x, "x", {batch, nx})), u(data(u, "u", {batch, nu})) {
    if (par)
      p = {data(*par, "parameters", par->ndim() == 1 ? shape({n_par}) : shape({batch, n_par})), par->ndim() == 1};
    const bool shared = friction.ndim() == 1;
    mu = {data(friction, "friction", shared ? shape({contacts}) : shape({batch, contacts})), shared};
  }
  static std::vector<Size> shape(std::vector<Size> s) { return s; }

  Size batch;
  const double *x, *u;
  Parameters p, mu;
};

struct Model {
  Model(const pinocchio::Model& model, RigidBodySettings settings, const ContactSettings& contact)
      : nx(model.nq + model.nv),
        nu(static_cast<Size>(settings.actuated.size())),
        n_par(10 * (model.njoints - 1) + model.nv),
        contacts(static_cast<Size>(contact.balls.size() + contact.pairs.size())),
        dynamics(model, std::move(settings), contact) {}

  Call call(const Array& x, const Array& u, const MaybeArray& par, const Array& friction) const {
    return {nx, nu, n_par, contacts, x, u, par, friction};
  }

  Size nx, nu, n_par, contacts;
  ContactDynamics dynamics;
};

// frame, position, rotation by rows, half lengths, radius
using Shape = std::tuple<int, std::array<double, 3>, std::array<double, 9>, std::array<double, 3>, double>;

RoundedBox rounded_box(const Shape& shape) {
  RoundedBox out;
  std::array<double, 3> position, half;
  std::array<double, 9> rotation;
  std::tie(out.frame, position, rotation, half, out.radius) = shape;
  std::copy(position.begin(), position.end(), out.position);
  std::copy(rotation.begin(), rotation.end(), out.rotation);
  std::copy(half.begin(), half.end(), out.half);
  return out;
}

}  // namespace

void bind_contact(py::module_& m) {
  py::class_<Ground>(m, "Ground")
      .def_static("plane", [](std::array<double, 3> normal,
                              double height) { return Ground(Plane{{normal[0], normal[1], normal[2]}, height}); })
      .def_static("height_field",
                  [](const Array& heights, std::array<double, 2> spacing, std::array<double, 2> origin) {
                    if (heights.ndim() != 2)
                      throw py::value_error("heights has shape " + shape_of(heights) + ", expected rank 2");
                    return Ground(HeightField(static_cast<int>(heights.shape(0)), static_cast<int>(heights.shape(1)),
                                              heights.data(), {spacing[0], spacing[1]}, {origin[0], origin[1]}));
                  })
      .def("at", [](const Ground& ground, const Array& points) {
        const Size n = batch_of(points, "points");
        const double* p = data(points, "points", {n, 3});
        Array distance(std::vector<Size>{n}), normal(std::vector<Size>{n, 3}), curvature(std::vector<Size>{n, 3, 3});
        for (Size i = 0; i < n; ++i) {
          const GroundPoint at = ground.at(Eigen::Map<const Eigen::Vector3d>(p + 3 * i));
          distance.mutable_data()[i] = at.distance;
          Eigen::Map<Eigen::Vector3d>(normal.mutable_data() + 3 * i) = at.normal;
          Eigen::Map<Eigen::Matrix3d>(curvature.mutable_data() + 9 * i) = at.curvature.transpose();
        }
        return py::make_tuple(distance, normal, curvature);
      });
  py::class_<Model>(m, "ContactDynamics")
      .def(py::init([](const py::object& model, double dt, std::vector<int> actuated, int threads,
                       const std::vector<std::tuple<int, double, std::array<double, 3>>>& balls,
                       const std::vector<std::pair<Shape, Shape>>& pairs, const Ground& ground, int directions,
                       double stiffness, double damping, double slip, bool lift, double limit_stiffness,
                       double limit_damping, std::vector<int> limited, std::vector<int> dry) {
             boost::python::extract<pinocchio::Model&> extracted(model.ptr());
             if (!extracted.check()) throw py::type_error("model is not a pinocchio.Model");
             ContactSettings c;
             for (const auto& [frame, radius, offset] : balls)
               c.balls.push_back({frame, radius, {offset[0], offset[1], offset[2]}});
             for (const auto& [first, second] : pairs) c.pairs.push_back({rounded_box(first), rounded_box(second)});
             c.ground = ground;
             c.directions = directions;
             c.stiffness = stiffness;
             c.damping = damping;
             c.slip = slip;
             c.lift = lift;
             c.limit_stiffness = limit_stiffness;
             c.limit_damping = limit_damping;
             c.limited = std::move(limited);
             c.dry = std::move(dry);
             RigidBodySettings s{dt, 1, Integrator::semi_implicit, std::move(actuated), threads};
             return std::make_unique<Model>(extracted(), std::move(s), c);
           }),
           py::kw_only(), py::arg("model"), py::arg("dt"), py::arg("actuated"), py::arg("threads"), py::arg("balls"),
           py::arg("pairs"), py::arg("ground"), py::arg("directions"), py::arg("stiffness"), py::arg("damping"),
           py::arg("slip"), py::arg("lift"), py::arg("limit_stiffness"), py::arg("limit_damping"), py::arg("limited"),
           py::arg("dry"))
      .def_property_readonly("rows", [](const Model& r) { return r.dynamics.rows(); })
      .def("problem",
           [](const Model& r, const Array& x, const Array& u, const MaybeArray& par, const Array& friction) {
             const Call c = r.call(x, u, par, friction);
             const Size m = r.dynamics.rows();
             Array H(std::vector<Size>{c.batch, m, m}), g(std::vector<Size>{c.batch, m});
             double *to_H = H.mutable_data(), *to_g = g.mutable_data();
             {
               py::gil_scoped_release release;
               r.dynamics.problem(static_cast<int>(c.batch), c.x, c.u, c.p, c.mu, to_H, to_g);
             }
             return py::make_tuple(H, g);
           })
      .def("step",
           [](const Model& r, const Array& x, const Array& u, const MaybeArray& par, const Array& friction,
              const Array& impulses) {
             const Call c = r.call(x, u, par, friction);
             const double* l = gradient(impulses, "impulses", c.batch * r.dynamics.rows());
             Array next(std::vector<Size>{c.batch, r.nx});
             double* to = next.mutable_data();
             {
               py::gil_scoped_release release;
               r.dynamics.step(static_cast<int>(c.batch), c.x, c.u, c.p, c.mu, l, to);
             }
             return next;
           })
      .def("loss",
           [](const Model& r, const Array& x, const Array& u, const MaybeArray& par, const Array& friction,
              const Array& impulses, const Array& g) {
             const Call c = r.call(x, u, par, friction);
             const double *l = gradient(impulses, "impulses", c.batch * r.dynamics.rows()),
                          *g_ = gradient(g, "gradient of x_next", c.batch * r.nx);
             Array loss(std::vector<Size>{c.batch, r.dynamics.rows()});
             double* to = loss.mutable_data();
             {
               py::gil_scoped_release release;
               r.dynamics.loss(static_cast<int>(c.batch), c.x, c.u, c.p, c.mu, l, g_, to);
             }
             return loss;
           })
      .def("adjoint",
           [](const Model& r, const Array& x, const Array& u, const MaybeArray& par, const Array& friction,
              const Array& impulses, const Array& g, const Array& by_g, const std::array<bool, 4>& want) {
             const Call c = r.call(x, u, par, friction);
             const double *l = gradient(impulses, "impulses", c.batch * r.dynamics.rows()),
                          *g_ = gradient(g, "gradient of x_next", c.batch * r.nx),
                          *a = gradient(by_g, "gradient of g", c.batch * r.dynamics.rows());
             Gradients out;
             py::object found[4] = {py::none(), py::none(), py::none(), py::none()};
             if (want[0]) out.x = make(found[0], {c.batch, r.nx});
             if (want[1]) out.u = make(found[1], {c.batch, r.nu});
             if (want[2])
               out.parameters = make(found[2], c.p.shared ? Call::shape({r.n_par}) : Call::shape({c.batch, r.n_par}));
             double* by_friction = want[3] ? make(found[3], {c.batch, r.contacts}) : nullptr;
             {
               py::gil_scoped_release release;
               r.dynamics.adjoint(static_cast<int>(c.batch), c.x, c.u, c.p, c.mu, l, g_, a, out, by_friction);
             }
             return py::make_tuple(found[0], found[1], found[2], found[3]);
           })
      .def("contacts", [](const Model& r, const Array& x, const Array& u, const MaybeArray& par, const Array& friction,
                          const Array& impulses) {
        const Call c = r.call(x, u, par, friction);
        const double* l = gradient(impulses, "impulses", c.batch * r.dynamics.rows());
        Array gaps(std::vector<Size>{c.batch, r.contacts}), forces(std::vector<Size>{c.batch, r.contacts, 3});
        double *to_gaps = gaps.mutable_data(), *to_forces = forces.mutable_data();
        {
          py::gil_scoped_release release;
          r.dynamics.contacts(static_cast<int>(c.batch), c.x, c.p, c.mu, l, to_gaps, to_forces);
        }
        return py::make_tuple(gaps, forces);
      });
}

}  // namespace qp_control
