// Inverse dynamics, frames and the centroid for Python.
#include <pybind11/stl.h>

#include <algorithm>
#include <utility>

#include "robot_arrays.hpp"

namespace qp_control {
namespace {

using Size = py::ssize_t;

Motions motions(const RigidBody& r, const Array& q, const Array& v, const Array& a) {
  const Size n = batch_of(q, "q");
  return {data(q, "q", {n, r.nq()}), data(v, "v", {n, r.nv()}), data(a, "a", {n, r.nv()})};
}

// Gradients that were asked for, in the order q, v, a, parameters.
struct Wanted {
  Wanted(const RigidBody& r, Size n, std::vector<bool> which, const Parameters& p = {}) {
    if (which[0]) to.q = make(out[0], {n, r.nq()});
    if (which[1]) to.v = make(out[1], {n, r.nv()});
    if (which[2]) to.a = make(out[2], {n, r.nv()});
    if (which[3])
      to.parameters = make(out[3], p.shared ? std::vector<Size>{r.n_par()} : std::vector<Size>{n, r.n_par()});
  }
  py::tuple result() const { return py::make_tuple(out[0], out[1], out[2], out[3]); }

  MotionGradients to;
  py::object out[4] = {py::none(), py::none(), py::none(), py::none()};
};

Array array(std::vector<Size> shape) { return Array(std::move(shape)); }

// The numbers of frames are the model's own and were looked up by name.
Frames frames(const std::vector<int>& index, bool aligned) {
  return {index.data(), static_cast<int>(index.size()), aligned};
}

}  // namespace

void bind_motions(py::class_<RigidBody>& robot) {
  using Index = std::vector<int>;
  robot
      .def("inverse_dynamics",
           [](const RigidBody& r, const Array& q, const Array& v, const Array& a, const MaybeArray& par) {
             const Size n = batch_of(q, "q");
             const Motions at = motions(r, q, v, a);
             const Parameters p = parameters(r, par, n);
             Array tau = array({n, r.nv()});
             double* to = tau.mutable_data();
             {
               py::gil_scoped_release release;
               r.inverse_dynamics(static_cast<int>(n), at, p, to);
             }
             return tau;
           })
      .def("inverse_dynamics_adjoint",
           [](const RigidBody& r, const Array& q, const Array& v, const Array& a, const MaybeArray& par, const Array& g,
              const std::vector<bool>& want) {
             const Size n = batch_of(q, "q");
             const Motions at = motions(r, q, v, a);
             const Parameters p = parameters(r, par, n);
             const double* g_ = gradient(g, "gradient of tau", n * r.nv());
             Wanted out(r, n, want, p);
             {
               py::gil_scoped_release release;
               r.inverse_dynamics_adjoint(static_cast<int>(n), at, p, g_, out.to);
             }
             return out.result();
           })
      .def("mass_matrix",
           [](const RigidBody& r, const Array& q, const MaybeArray& par) {
             const Size n = batch_of(q, "q");
             const double* q_ = data(q, "q", {n, r.nq()});
             const Parameters p = parameters(r, par, n);
             Array M = array({n, r.nv(), r.nv()});
             double* to = M.mutable_data();
             {
               py::gil_scoped_release release;
               r.mass_matrix(static_cast<int>(n), q_, p, to);
             }
             return M;
           })
      .def("mass_matrix_adjoint",
           [](const RigidBody& r, const Array& q, const MaybeArray& par, const Array& g, bool want_q, bool want_p) {
             const Size n = batch_of(q, "q");
             const double *q_ = data(q, "q", {n, r.nq()}), *g_ = gradient(g, "gradient of M", n * r.nv() * r.nv());
             const Parameters p = parameters(r, par, n);
             Wanted out(r, n, {want_q, false, false, want_p}, p);
             {
               py::gil_scoped_release release;
               r.mass_matrix_adjoint(static_cast<int>(n), q_, p, g_, out.to);
             }
             return py::make_tuple(out.out[0], out.out[3]);
           })
      .def("frames",
           [](const RigidBody& r, const Array& q, const Array& v, const Array& a, const Index& index, bool aligned) {
             const Size n = batch_of(q, "q"), m = static_cast<Size>(index.size());
             const Motions at = motions(r, q, v, a);
             Array position = array({n, m, 3}), rotation = array({n, m, 3, 3}), velocity = array({n, m, 6}),
                   acceleration = array({n, m, 6});
             const FrameNumbers<double> to{position.mutable_data(), rotation.mutable_data(), velocity.mutable_data(),
                                           acceleration.mutable_data()};
             {
               py::gil_scoped_release release;
               r.frames(static_cast<int>(n), at, frames(index, aligned), to);
             }
             return py::make_tuple(position, rotation, velocity, acceleration);
           })
      .def("frames_adjoint",
           [](const RigidBody& r, const Array& q, const Array& v, const Array& a, const Index& index, bool aligned,
              const MaybeArray& position, const MaybeArray& rotation, const MaybeArray& velocity,
              const MaybeArray& acceleration, const std::vector<bool>& want) {
             const Size n = batch_of(q, "q"), m = n * static_cast<Size>(index.size());
             const Motions at = motions(r, q, v, a);
             const FrameNumbers<const double> g{gradient(position, "gradient of the position", 3 * m),
                                                gradient(rotation, "gradient of the rotation", 9 * m),
                                                gradient(velocity, "gradient of the velocity", 6 * m),
                                                gradient(acceleration, "gradient of the acceleration", 6 * m)};
             Wanted out(r, n, {want[0], want[1], want[2], false});
             {
               py::gil_scoped_release release;
               r.frames_adjoint(static_cast<int>(n), at, frames(index, aligned), g, out.to);
             }
             return py::make_tuple(out.out[0], out.out[1], out.out[2]);
           })
      .def("frame_jacobians",
           [](const RigidBody& r, const Array& q, const Index& index, bool aligned) {
             const Size n = batch_of(q, "q");
             const double* q_ = data(q, "q", {n, r.nq()});
             Array J = array({n, static_cast<Size>(index.size()), 6, r.nv()});
             double* to = J.mutable_data();
             {
               py::gil_scoped_release release;
               r.frame_jacobians(static_cast<int>(n), q_, frames(index, aligned), to);
             }
             return J;
           })
      .def("frame_jacobians_adjoint",
           [](const RigidBody& r, const Array& q, const Index& index, bool aligned, const Array& g) {
             const Size n = batch_of(q, "q");
             const double *q_ = data(q, "q", {n, r.nq()}),
                          *g_ = gradient(g, "gradient of J", n * static_cast<Size>(index.size()) * 6 * r.nv());
             Array g_q = array({n, r.nq()});
             double* to = g_q.mutable_data();
             {
               py::gil_scoped_release release;
               r.frame_jacobians_adjoint(static_cast<int>(n), q_, frames(index, aligned), g_, to);
             }
             return g_q;
           })
      .def("centroid",
           [](const RigidBody& r, const Array& q, const Array& v, const Array& a, const MaybeArray& par) {
             const Size n = batch_of(q, "q");
             const Motions at = motions(r, q, v, a);
             const Parameters p = parameters(r, par, n);
             Array position = array({n, 3}), momentum = array({n, 6}), rate = array({n, 6});
             const CentroidNumbers<double> to{position.mutable_data(), momentum.mutable_data(), rate.mutable_data()};
             {
               py::gil_scoped_release release;
               r.centroid(static_cast<int>(n), at, p, to);
             }
             return py::make_tuple(position, momentum, rate);
           })
      .def("centroid_adjoint", [](const RigidBody& r, const Array& q, const Array& v, const Array& a,
                                  const MaybeArray& par, const MaybeArray& position, const MaybeArray& momentum,
                                  const MaybeArray& rate, const std::vector<bool>& want) {
        const Size n = batch_of(q, "q");
        const Motions at = motions(r, q, v, a);
        const Parameters p = parameters(r, par, n);
        const CentroidNumbers<const double> g{gradient(position, "gradient of the position", 3 * n),
                                              gradient(momentum, "gradient of the momentum", 6 * n),
                                              gradient(rate, "gradient of its rate", 6 * n)};
        Wanted out(r, n, want, p);
        {
          py::gil_scoped_release release;
          r.centroid_adjoint(static_cast<int>(n), at, p, g, out.to);
        }
        return out.result();
      });
}

}  // namespace qp_control
