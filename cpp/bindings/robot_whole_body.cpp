// QPs of controllers by inverse dynamics for Python.
#include <pybind11/eigen.h>
#include <pybind11/stl.h>

#include <array>

#include "qp_control/inverse_dynamics_loop.hpp"
#include "qp_control/whole_body.hpp"
#include "robot_arrays.hpp"
#include "robot_model.hpp"

namespace qp_control {
namespace {

using Size = py::ssize_t;

// A field of a description, left as it is where the description has none.
template <class T>
void take(const py::dict& from, const char* name, T& to) {
  if (from.contains(name)) to = from[name].cast<T>();
}

template <class Kind>
Kind kind_of(const py::dict& d, std::initializer_list<std::pair<const char*, Kind>> known) {
  const auto name = d["kind"].cast<std::string>();
  for (const auto& [text, kind] : known)
    if (name == text) return kind;
  throw py::value_error("there is no kind '" + name + "'");
}

Term term(const py::dict& d) {
  Term t{kind_of<TermKind>(d, {{"frame", TermKind::frame},
                               {"centre_of_mass", TermKind::centre_of_mass},
                               {"angular_momentum", TermKind::angular_momentum},
                               {"posture", TermKind::posture},
                               {"torque", TermKind::torque},
                               {"selection", TermKind::selection}}),
         {}};
  take(d, "rows", t.rows);
  for (auto [name, to] : {std::pair("hard", &t.hard),
                          {"position", &t.position},
                          {"orientation", &t.orientation},
                          {"own_axes", &t.own_axes}})
    take(d, name, *to);
  for (auto [name, to] : {std::pair("frame", &t.frame),
                          {"base", &t.base},
                          {"first", &t.first},
                          {"points", &t.points},
                          {"level", &t.level},
                          {"weight", &t.weight},
                          {"activation", &t.activation},
                          {"stiffness", &t.stiffness},
                          {"damping", &t.damping},
                          {"reference", &t.reference},
                          {"velocity", &t.velocity},
                          {"acceleration", &t.acceleration}})
    take(d, name, *to);
  return t;
}

Support support(const py::dict& d) {
  Support s{};
  take(d, "points", s.points);
  take(d, "directions", s.directions);
  take(d, "normal", s.normal);
  for (auto [name, to] : {std::pair("frame", &s.frame),
                          {"first", &s.first},
                          {"activation", &s.activation},
                          {"friction", &s.friction},
                          {"min_force", &s.min_force},
                          {"max_force", &s.max_force}})
    take(d, name, *to);
  return s;
}

JointBounds joint_bounds(const py::dict& d) {
  JointBounds b{kind_of<BoundKind>(d, {{"position", BoundKind::position},
                                       {"velocity", BoundKind::velocity},
                                       {"acceleration", BoundKind::acceleration}}),
                {},
                {}};
  take(d, "q", b.q);
  take(d, "v", b.v);
  take(d, "dt", b.dt);
  take(d, "return_time", b.return_time);
  for (auto [name, to] : {std::pair("lower", &b.lower),
                          {"upper", &b.upper},
                          {"velocity", &b.velocity},
                          {"acceleration", &b.acceleration}})
    take(d, name, *to);
  return b;
}

Barrier barrier(const py::dict& d) {
  Barrier b{};
  b.kind = kind_of<BarrierKind>(
      d, {{"plane", BarrierKind::plane}, {"sphere", BarrierKind::sphere}, {"frame", BarrierKind::frame}});
  b.normal.setZero();
  take(d, "normal", b.normal);
  for (auto [name, to] : {std::pair("frame", &b.frame),
                          {"other", &b.other},
                          {"stiffness", &b.stiffness},
                          {"damping", &b.damping},
                          {"distance", &b.distance},
                          {"centre", &b.centre}})
    take(d, name, *to);
  return b;
}

struct Model {
  Model(const py::object& m, WholeBodySettings s)
      : robot(robot_model(m)),
        settings(std::move(s)),
        nq(robot.nq),
        nv(robot.nv),
        nu(static_cast<Size>(settings.actuated.size())),
        n_par(robot.n_par),
        body(*robot.model, settings) {}

  // Shapes of the problem's arrays, in its order.
  std::array<std::vector<Size>, 11> shapes(Size batch) const {
    const auto [n, n_eq, n_in] = body.sizes();
    return {{{batch, n, n},
             {batch, n},
             {batch, n_eq, n},
             {batch, n_eq},
             {batch, n_in, n},
             {batch, n_in},
             {batch, n_in},
             {batch, n},
             {batch, n},
             {batch, nu, n},
             {batch, nu}}};
  }

  Parameters numbers(const Array& a, Size batch) const {
    const bool shared = a.ndim() == 1;
    if (a.size() != (shared ? 1 : batch) * Size(body.numbers()))
      throw py::value_error("numbers have shape " + shape_of(a) + ", expected " + std::to_string(body.numbers()));
    return {a.data(), shared};
  }

  Parameters parameters(const MaybeArray& p, Size batch) const {
    if (!p) return {};
    if (p->ndim() == 1) return {data(*p, "parameters", {n_par}), true};
    return {data(*p, "parameters", {batch, n_par}), false};
  }

  const RobotModel robot;
  const WholeBodySettings settings;
  const Size nq, nv, nu, n_par;
  WholeBody body;
};

const DenseQpMaker& dense_qps(const py::capsule& solver) {
  if (std::string(solver.name()) != "qp_control.dense_qps") throw py::value_error("solver is not one of dense QPs");
  return *solver.get_pointer<const DenseQpMaker>();
}

LoopOptions loop_options(const Array& shift_weights, double torque_shift_weight) {
  LoopOptions out;
  out.shift_weights.assign(shift_weights.data(), shift_weights.data() + shift_weights.size());
  out.torque_shift_weight = torque_shift_weight;
  return out;
}

struct Loop {
  Loop(const Model& m, py::capsule qps, const Array& shift_weights, double torque_shift_weight)
      : solver(std::move(qps)),
        nq(m.nq),
        nv(m.nv),
        numbers(m.body.numbers()),
        n_par(m.n_par),
        loop(*m.robot.model, m.settings, dense_qps(solver), loop_options(shift_weights, torque_shift_weight)) {}

  // Torques, x, shifts, status and iterations. q and v may be anything of the right size: the status says so.
  py::tuple tick(const Array& q, const Array& v, const Array& k, const MaybeArray& par) {
    const double *q_ = gradient(q, "q", nq), *v_ = gradient(v, "v", nv), *k_ = gradient(k, "numbers", numbers);
    const double* p = par ? data(*par, "parameters", {n_par}) : nullptr;
    const ControlTick* found = nullptr;
    {
      py::gil_scoped_release release;
      found = &loop.tick(q_, v_, k_, p);
    }
    const auto copy = [](const Eigen::VectorXd& a) { return Array(a.size(), a.data()); };
    return py::make_tuple(copy(found->torque), copy(found->x), copy(found->shift), static_cast<int>(found->status),
                          found->iterations);
  }

  const py::capsule solver;
  const Size nq, nv, numbers, n_par;
  InverseDynamicsLoop loop;
};

}  // namespace

void bind_whole_body(py::module_& m) {
  py::class_<Model>(m, "WholeBody")
      .def(py::init([](const py::object& model, std::vector<int> actuated, int threads, int numbers,
                       const std::vector<py::dict>& terms, const std::vector<py::dict>& supports,
                       const std::vector<py::dict>& bounds, const std::vector<py::dict>& barriers, int torque_lower,
                       int torque_upper) {
             WholeBodySettings s;
             s.actuated = std::move(actuated);
             s.threads = threads;
             s.numbers = numbers;
             for (const auto& d : terms) s.terms.push_back(term(d));
             for (const auto& d : supports) s.supports.push_back(support(d));
             for (const auto& d : bounds) s.bounds.push_back(joint_bounds(d));
             for (const auto& d : barriers) s.barriers.push_back(barrier(d));
             s.torque_lower = torque_lower;
             s.torque_upper = torque_upper;
             return std::make_unique<Model>(model, std::move(s));
           }),
           py::kw_only(), py::arg("model"), py::arg("actuated"), py::arg("threads"), py::arg("numbers"),
           py::arg("terms"), py::arg("supports"), py::arg("bounds"), py::arg("barriers"), py::arg("torque_lower"),
           py::arg("torque_upper"))
      .def("problem",
           [](const Model& r, const Array& q, const Array& v, const Array& numbers, const MaybeArray& par) {
             const Size batch = batch_of(q, "q");
             const double *q_ = data(q, "q", {batch, r.nq}), *v_ = data(v, "v", {batch, r.nv});
             const Parameters k = r.numbers(numbers, batch), p = r.parameters(par, batch);
             py::list found;
             std::array<double*, 11> to{};
             const auto shapes = r.shapes(batch);
             for (std::size_t i = 0; i < shapes.size(); ++i) {
               Array a(shapes[i]);
               to[i] = a.mutable_data();
               found.append(a);
             }
             {
               py::gil_scoped_release release;
               r.body.problem(static_cast<int>(batch), q_, v_, k, p,
                              {to[0], to[1], to[2], to[3], to[4], to[5], to[6], to[7], to[8], to[9], to[10]});
             }
             return found;
           })
      .def("residuals",
           [](const Model& r, const Array& q, const Array& v, const Array& numbers, const MaybeArray& par,
              const Array& x) {
             const Size batch = batch_of(q, "q");
             const double *q_ = data(q, "q", {batch, r.nq}), *v_ = data(v, "v", {batch, r.nv});
             const Parameters k = r.numbers(numbers, batch), p = r.parameters(par, batch);
             const double* x_ = gradient(x, "x", batch * r.body.sizes().n);
             Array residual(std::vector<Size>{batch, r.body.term_rows()}), error(residual.request().shape);
             double *to_residual = residual.mutable_data(), *to_error = error.mutable_data();
             {
               py::gil_scoped_release release;
               r.body.residuals(static_cast<int>(batch), q_, v_, k, p, x_, to_residual, to_error);
             }
             return py::make_tuple(residual, error);
           })
      .def("adjoint", [](const Model& r, const Array& q, const Array& v, const Array& numbers, const MaybeArray& par,
                         const std::vector<MaybeArray>& by, const std::array<bool, 4>& want) {
        const Size batch = batch_of(q, "q");
        const double *q_ = data(q, "q", {batch, r.nq}), *v_ = data(v, "v", {batch, r.nv});
        const Parameters k = r.numbers(numbers, batch), p = r.parameters(par, batch);
        const auto shapes = r.shapes(batch);
        if (by.size() != shapes.size()) throw py::value_error("there must be eleven gradients");
        std::array<const double*, 11> g{};
        for (std::size_t i = 0; i < shapes.size(); ++i) {
          Size size = 1;
          for (Size length : shapes[i]) size *= length;
          g[i] = gradient(by[i], "a gradient", size);
        }
        WholeBodyGradients out;
        py::object found[4] = {py::none(), py::none(), py::none(), py::none()};
        if (want[0]) out.q = make(found[0], {batch, r.nq});
        if (want[1]) out.v = make(found[1], {batch, r.nv});
        if (want[2]) out.numbers = make(found[2], {batch, Size(r.body.numbers())});
        if (want[3])
          out.parameters = make(found[3], p.shared ? std::vector<Size>{r.n_par} : std::vector<Size>{batch, r.n_par});
        {
          py::gil_scoped_release release;
          r.body.adjoint(static_cast<int>(batch), q_, v_, k, p,
                         {g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10]}, out);
        }
        return py::make_tuple(found[0], found[1], found[2], found[3]);
      });
  py::class_<Loop>(m, "InverseDynamicsLoop")
      .def(py::init<const Model&, py::capsule, const Array&, double>(), py::arg("whole_body"), py::arg("solver"),
           py::arg("shift_weights"), py::arg("torque_shift_weight"))
      .def("tick", &Loop::tick)
      .def("reset", [](Loop& r) { r.loop.reset(); });
}

}  // namespace qp_control
