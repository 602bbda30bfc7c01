#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <pinocchio/config.hpp>
#include <string>
#include <utility>

#include "robot_arrays.hpp"
#include "robot_model.hpp"

namespace py = pybind11;
using namespace qp_control;

namespace {

// A reference of the batch: (1, nq + nv) or (batch, nq + nv).
Reference reference(const RigidBody& robot, const Array& r, const char* name, py::ssize_t batch) {
  const bool shared = r.ndim() == 2 && r.shape(0) == 1;
  return {data(r, name, {shared ? 1 : batch, robot.nq() + robot.nv()}), shared};
}

using MaybeCharts = std::optional<std::pair<Array, Array>>;

Charts charts(const RigidBody& robot, const MaybeCharts& c, py::ssize_t batch) {
  if (!c) return {};
  return {reference(robot, c->first, "reference", batch), reference(robot, c->second, "next reference", batch)};
}

py::ssize_t coordinates(const RigidBody& robot, const MaybeCharts& c) {
  return c ? 2 * robot.nv() : robot.nq() + robot.nv();
}

// What `map` makes of a batch of arrays with the sizes `in` each, and `out` of its results.
template <class Map>
Array mapped(const RigidBody& robot, const Array& from, const Array& x, const char* name, py::ssize_t in,
             py::ssize_t out, Map map) {
  const py::ssize_t n = batch_of(x, name);
  const double* x_ = data(x, name, {n, in});
  const Reference r = reference(robot, from, "reference", n);
  Array result(std::vector<py::ssize_t>{n, out});
  double* to = result.mutable_data();
  {
    py::gil_scoped_release release;
    map(static_cast<int>(n), r, x_, to);
  }
  return result;
}

// The same for a pair of gradients, by `x` and by the references, those that are wanted.
template <class Map>
py::tuple pulled_back(const RigidBody& robot, const Array& from, const Array& x, const char* name, py::ssize_t in,
                      py::ssize_t out, bool want_x, bool want_from, Map map) {
  py::object by_from = py::none(), by_x = py::none();
  double* to = nullptr;
  if (want_from) {
    Array result(std::vector<py::ssize_t>{batch_of(x, name), robot.nq() + robot.nv()});
    to = result.mutable_data();
    by_from = result;
  }
  const Array found = mapped(robot, from, x, name, in, out, [&](int n, Reference f, const double* x_, double* g_x) {
    map(n, f, x_, want_x ? g_x : nullptr, to);
  });
  if (want_x) by_x = found;
  return py::make_tuple(by_x, by_from);
}

// Output arrays for the gradients that were asked for.
struct Wanted {
  Wanted(const RigidBody& robot, py::ssize_t batch, int n_x, int n_u, bool want_x, bool want_u, bool want_p,
         const Parameters& p, bool want_now = false, bool want_next = false) {
    if (want_x) to.x = make(x, {batch, n_x});
    if (want_u) to.u = make(u, {batch, n_u});
    if (want_p && p.shared) to.parameters = make(par, {robot.n_par()});
    if (want_p && !p.shared) to.parameters = make(par, {batch, robot.n_par()});
    if (want_now) to.now = make(now, {batch, robot.nq() + robot.nv()});
    if (want_next) to.next = make(next, {batch, robot.nq() + robot.nv()});
  }
  py::tuple result() const { return py::make_tuple(x, u, par); }
  py::tuple with_references() const { return py::make_tuple(x, u, par, now, next); }

  Gradients to;
  py::object x = py::none(), u = py::none(), par = py::none(), now = py::none(), next = py::none();
};

}  // namespace

PYBIND11_MODULE(_robot, m) {
  m.doc() = "Batched rigid-body dynamics on Pinocchio";
  py::module_::import("pinocchio");  // the converter of its Model
  m.attr("PINOCCHIO_VERSION") = PINOCCHIO_VERSION;

  py::enum_<Integrator>(m, "Integrator")
      .value("euler", Integrator::euler)
      .value("semi_implicit", Integrator::semi_implicit)
      .value("rk4", Integrator::rk4);

  py::class_<RigidBody> robot(m, "RigidBody");
  bind_motions(robot);
  bind_contact(m);
  bind_whole_body(m);
  robot
      .def(py::init([](const py::object& model, double dt, int substeps, Integrator integrator,
                       std::vector<int> actuated, int threads) {
             return std::make_unique<RigidBody>(
                 *robot_model(model).model, RigidBodySettings{dt, substeps, integrator, std::move(actuated), threads});
           }),
           py::arg("model"), py::kw_only(), py::arg("dt"), py::arg("substeps"), py::arg("integrator"),
           py::arg("actuated"), py::arg("threads"))
      .def_property_readonly("nq", &RigidBody::nq)
      .def_property_readonly("nv", &RigidBody::nv)
      .def_property_readonly("nu", &RigidBody::nu)
      .def_property_readonly("n_par", &RigidBody::n_par)
      .def_property_readonly("bodies", &RigidBody::bodies)
      .def_property_readonly("vector_space", &RigidBody::vector_space)
      .def_property_readonly(
          "nominal_parameters",
          [](const RigidBody& r) { return Array(r.nominal_parameters().size(), r.nominal_parameters().data()); })
      .def("forward_dynamics",
           [](const RigidBody& r, const Array& q, const Array& v, const Array& tau, const MaybeArray& par,
              bool derivatives, bool by_parameters) {
             const py::ssize_t n = batch_of(q, "q"), nv = r.nv();
             const double *q_ = data(q, "q", {n, r.nq()}), *v_ = data(v, "v", {n, nv}),
                          *tau_ = data(tau, "tau", {n, nv});
             const Parameters p = parameters(r, par, n);
             Array qdd(std::vector<py::ssize_t>{n, nv});
             const py::ssize_t m = derivatives ? n : 0;
             const std::vector<py::ssize_t> square{m, nv, nv};
             Array dq(square), dv(square), dtau(square),
                 dp(std::vector<py::ssize_t>{by_parameters ? m : 0, nv, r.n_par()});
             double *a = qdd.mutable_data(), *to_q = derivatives ? dq.mutable_data() : nullptr,
                    *to_v = dv.mutable_data(), *to_tau = dtau.mutable_data(),
                    *to_p = by_parameters ? dp.mutable_data() : nullptr;
             {
               py::gil_scoped_release release;
               r.forward_dynamics(static_cast<int>(n), q_, v_, tau_, p, a, to_q, to_v, to_tau, to_p);
             }
             return py::make_tuple(qdd, dq, dv, dtau, dp);
           })
      .def("forward_dynamics_adjoint",
           [](const RigidBody& r, const Array& q, const Array& v, const Array& tau, const MaybeArray& par,
              const Array& g, bool want_x, bool want_tau, bool want_p) {
             const py::ssize_t n = batch_of(q, "q"), nv = r.nv();
             const double *q_ = data(q, "q", {n, r.nq()}), *v_ = data(v, "v", {n, nv}),
                          *tau_ = data(tau, "tau", {n, nv}), *g_ = gradient(g, "gradient of qdd", n * nv);
             const Parameters p = parameters(r, par, n);
             Wanted out(r, n, r.nq() + r.nv(), r.nv(), want_x, want_tau, want_p, p);
             {
               py::gil_scoped_release release;
               r.forward_dynamics_adjoint(static_cast<int>(n), q_, v_, tau_, p, g_, out.to);
             }
             return out.result();
           })
      .def(
          "step",
          [](const RigidBody& r, const Array& x, const Array& u, const MaybeArray& par, const MaybeCharts& around) {
            const py::ssize_t n = batch_of(x, "x"), nx = coordinates(r, around);
            const double *x_ = data(x, "x", {n, nx}), *u_ = data(u, "u", {n, r.nu()});
            const Parameters p = parameters(r, par, n);
            const Charts c = charts(r, around, n);
            Array next(std::vector<py::ssize_t>{n, nx});
            double* to = next.mutable_data();
            {
              py::gil_scoped_release release;
              r.step(static_cast<int>(n), x_, u_, p, to, c);
            }
            return next;
          },
          py::arg("x"), py::arg("u"), py::arg("parameters"), py::pos_only(), py::kw_only(),
          py::arg("charts") = py::none())
      .def(
          "linearize",
          [](const RigidBody& r, const Array& x, const Array& u, const MaybeArray& par, bool with_parameters,
             const MaybeCharts& around) {
            const py::ssize_t n = batch_of(x, "x"), nx = coordinates(r, around), ndx = 2 * r.nv();
            const double *x_ = data(x, "x", {n, nx}), *u_ = data(u, "u", {n, r.nu()});
            const Parameters p = parameters(r, par, n);
            const Charts c = charts(r, around, n);
            Array next(std::vector<py::ssize_t>{n, nx}), A(std::vector<py::ssize_t>{n, ndx, ndx}),
                B(std::vector<py::ssize_t>{n, ndx, r.nu()}),
                P(std::vector<py::ssize_t>{with_parameters ? n : 0, ndx, r.n_par()});
            double *to = next.mutable_data(), *to_A = A.mutable_data(), *to_B = B.mutable_data(),
                   *to_P = with_parameters ? P.mutable_data() : nullptr;
            {
              py::gil_scoped_release release;
              r.linearize(static_cast<int>(n), x_, u_, p, to, to_A, to_B, to_P, c);
            }
            return py::make_tuple(next, A, B, P);
          },
          py::arg("x"), py::arg("u"), py::arg("parameters"), py::arg("with_parameters"), py::pos_only(), py::kw_only(),
          py::arg("charts") = py::none())
      .def(
          "linearize_adjoint",
          [](const RigidBody& r, const Array& x, const Array& u, const MaybeArray& par, const MaybeArray& g_next,
             const MaybeArray& g_A, const MaybeArray& g_B, bool want_x, bool want_u, bool want_p, bool want_now,
             bool want_next, const MaybeCharts& around) {
            const py::ssize_t n = batch_of(x, "x"), nx = coordinates(r, around), ndx = 2 * r.nv();
            const double *x_ = data(x, "x", {n, nx}), *u_ = data(u, "u", {n, r.nu()});
            const double *gn = gradient(g_next, "gradient of x_next", n * nx),
                         *gA = gradient(g_A, "gradient of A", n * ndx * ndx),
                         *gB = gradient(g_B, "gradient of B", n * ndx * r.nu());
            const Parameters p = parameters(r, par, n);
            const Charts c = charts(r, around, n);
            Wanted out(r, n, static_cast<int>(nx), r.nu(), want_x, want_u, want_p, p, want_now, want_next);
            {
              py::gil_scoped_release release;
              r.linearize_adjoint(static_cast<int>(n), x_, u_, p, gn, gA, gB, out.to, c);
            }
            return out.with_references();
          },
          py::arg("x"), py::arg("u"), py::arg("parameters"), py::arg("g_next"), py::arg("g_A"), py::arg("g_B"),
          py::arg("want_x"), py::arg("want_u"), py::arg("want_parameters"), py::arg("want_now"), py::arg("want_next"),
          py::pos_only(), py::kw_only(), py::arg("charts") = py::none())
      .def(
          "second_order",
          [](const RigidBody& r, const Array& x, const Array& u, const MaybeArray& par, const Array& y,
             const MaybeCharts& around) {
            const py::ssize_t n = batch_of(x, "x"), nx = coordinates(r, around), ndx = 2 * r.nv(), nz = ndx + r.nu();
            const double *x_ = data(x, "x", {n, nx}), *u_ = data(u, "u", {n, r.nu()}), *y_ = data(y, "y", {n, ndx});
            const Parameters p = parameters(r, par, n);
            const Charts c = charts(r, around, n);
            Array hessian(std::vector<py::ssize_t>{n, nz, nz});
            double* to = hessian.mutable_data();
            {
              py::gil_scoped_release release;
              r.second_order(static_cast<int>(n), x_, u_, p, y_, to, c);
            }
            return hessian;
          },
          py::arg("x"), py::arg("u"), py::arg("parameters"), py::arg("y"), py::pos_only(), py::kw_only(),
          py::arg("charts") = py::none())
      .def("difference",
           [](const RigidBody& r, const Array& from, const Array& x) {
             const py::ssize_t nx = r.nq() + r.nv();
             return mapped(r, from, x, "x", nx, 2 * r.nv(),
                           [&](int n, Reference f, const double* x_, double* xi) { r.difference(n, f, x_, xi); });
           })
      .def("difference_adjoint",
           [](const RigidBody& r, const Array& from, const Array& x, const Array& g, bool want_x, bool want_from) {
             const py::ssize_t n = batch_of(x, "x"), nx = r.nq() + r.nv();
             const double* g_ = gradient(g, "gradient of the difference", n * 2 * r.nv());
             return pulled_back(r, from, x, "x", nx, nx, want_x, want_from,
                                [&](int n, Reference f, const double* x_, double* g_x, double* g_f) {
                                  r.difference_adjoint(n, f, x_, g_, g_x, g_f);
                                });
           })
      .def("integrate",
           [](const RigidBody& r, const Array& from, const Array& xi) {
             const py::ssize_t nx = r.nq() + r.nv();
             return mapped(r, from, xi, "error", 2 * r.nv(), nx,
                           [&](int n, Reference f, const double* xi_, double* x) { r.integrate(n, f, xi_, x); });
           })
      .def("integrate_tangent",
           [](const RigidBody& r, const Array& from, const Array& xi, const Array& d) {
             const py::ssize_t nx = r.nq() + r.nv();
             const double* d_ = gradient(d, "direction", batch_of(xi, "error") * 2 * r.nv());
             return mapped(
                 r, from, xi, "error", 2 * r.nv(), nx,
                 [&](int n, Reference f, const double* xi_, double* d_x) { r.integrate_tangent(n, f, xi_, d_, d_x); });
           })
      .def("integrate_adjoint",
           [](const RigidBody& r, const Array& from, const Array& xi, const Array& g, bool want_xi, bool want_from) {
             const double* g_ = gradient(g, "gradient of the state", batch_of(xi, "error") * (r.nq() + r.nv()));
             return pulled_back(r, from, xi, "error", 2 * r.nv(), 2 * r.nv(), want_xi, want_from,
                                [&](int n, Reference f, const double* xi_, double* g_xi, double* g_f) {
                                  r.integrate_adjoint(n, f, xi_, g_, g_xi, g_f);
                                });
           })
      .def("on_manifold", [](const RigidBody& r, const Array& x) {
        const py::ssize_t n = batch_of(x, "x"), nx = r.nq() + r.nv();
        if (x.shape(1) != nx)
          throw py::value_error("x has shape " + shape_of(x) + ", expected (" + std::to_string(n) + ", " +
                                std::to_string(nx) + ")");
        py::array_t<bool> result(n);
        const double* x_ = x.data();
        bool* to = result.mutable_data();
        {
          py::gil_scoped_release release;
          r.on_manifold(static_cast<int>(n), x_, to);
        }
        return result;
      });
}
