#include "qp_control/contact.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>
#include <limits>
#include <pinocchio/multibody.hpp>
#include <stdexcept>
#include <string>

#include "contact_step.hpp"
#include "impulses.hpp"
#include "workers.hpp"

namespace qp_control {

using Eigen::Map;
using Eigen::MatrixXd;
using Eigen::Vector3d;
using Eigen::VectorXd;

namespace {

void check(const pinocchio::Model& model, const ContactSettings& s) {
  const auto fail = [](const std::string& what) { throw std::invalid_argument(what); };
  const auto positive = [&](const char* name, double value) {
    if (!(value > 0.0) || !std::isfinite(value))
      fail(std::string(name) + " is " + std::to_string(value) + ", expected a positive number");
  };
  for (const ContactBall& ball : s.balls) {
    if (ball.frame < 0 || ball.frame >= model.nframes) fail("there is no frame " + std::to_string(ball.frame));
    if (!(ball.radius >= 0.0) || !std::isfinite(ball.radius))
      fail("a radius is " + std::to_string(ball.radius) + ", expected at least 0 [m]");
    for (double d : ball.offset)
      if (!std::isfinite(d)) fail("an offset is " + std::to_string(d) + ", expected finite numbers [m]");
  }
  for (const ContactPair& pair : s.pairs) {
    for (const RoundedBox& shape : {pair.first, pair.second}) {
      if (shape.frame < 0 || shape.frame >= model.nframes) fail("there is no frame " + std::to_string(shape.frame));
      for (double size : {shape.radius, shape.half[0], shape.half[1], shape.half[2]})
        if (!(size >= 0.0) || !std::isfinite(size))
          fail("a size is " + std::to_string(size) + ", expected at least 0 [m]");
      for (double number : shape.position)
        if (!std::isfinite(number)) fail("a position is " + std::to_string(number) + ", expected finite numbers [m]");
      using Rotation = Eigen::Matrix<double, 3, 3, Eigen::RowMajor>;
      if (!Eigen::Map<const Rotation>(shape.rotation).isUnitary(1e-9)) fail("a shape's rotation is not orthogonal");
    }
    if (pair.first.half[0] > 0.0 || pair.first.half[1] > 0.0) fail("the first of a pair is a box");
    if (model.frames[pair.first.frame].parentJoint == model.frames[pair.second.frame].parentJoint)
      fail("both of a pair, " + model.frames[pair.first.frame].name + " and " + model.frames[pair.second.frame].name +
           ", are on one body");
  }
  if (s.directions < 2) fail("there are " + std::to_string(s.directions) + " directions, expected at least 2");
  positive("stiffness", s.stiffness);
  positive("damping", s.damping);
  positive("slip", s.slip);
  positive("limit_stiffness", s.limit_stiffness);
  positive("limit_damping", s.limit_damping);
}

// One thread's memory, for as many elements as are solved together.
struct ContactWorker {
  ContactWorker(const pinocchio::Model& model, const RigidBodySettings& settings, const ContactSettings& contact,
                const BoxQpMaker& solver)
      : robot(model),
        impulses(solver, {static_cast<int>(contact.balls.size() + contact.pairs.size()) * contact.directions,
                          static_cast<int>(contact.limited.size()), static_cast<int>(contact.dry.size())}),
        T(MatrixXd::Zero(robot.nq(), robot.nv())) {
    for (int k = 0; k < solver.width(); ++k) steps.emplace_back(robot, model, settings, contact);
    carried.resize(solver.width());
    x_next.resize(robot.nq() + robot.nv());
    states.resize(x_next.size() * solver.width());
  }

  // Gradients between coordinates of the state and its tangent space.
  void add_to_tangent(const VectorXd& q, const double* g, VectorXd& tangent) {
    const int nq = robot.nq(), nv = robot.nv();
    robot.tangent_map(q, T);
    tangent.head(nv).noalias() += T.transpose() * Map<const VectorXd>(g, nq);
    tangent.tail(nv) += Map<const VectorXd>(g + nq, nv);
  }
  void from_tangent(const VectorXd& q, const VectorXd& tangent, double* g) {
    const int nq = robot.nq(), nv = robot.nv();
    robot.tangent_map(q, T);
    // The columns of the tangent maps of all joints are orthogonal: T (T'T)^-1.
    scaled = tangent.head(nv).cwiseQuotient(T.colwise().squaredNorm().transpose());
    Map<VectorXd>(g, nq).noalias() = T * scaled;
    Map<VectorXd>(g + nq, nv) = tangent.segment(nv, nv);
  }

  Evaluator robot;
  std::deque<ContactStep> steps;
  Impulses impulses;
  MatrixXd T;
  std::vector<double> states;
  std::vector<VectorXd> carried;  // gradients by the states, in their tangent spaces
  VectorXd x_next, lambda, by_g, loss, g_z, scaled;
};

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr long long broken = 8;  // Status::NUMERICAL_ERROR

bool has_solution(long long status) { return status < 5; }  // before Status::DUAL_INFEASIBLE

}  // namespace

struct ContactDynamics::Implementation {
  Implementation(const pinocchio::Model& m, RigidBodySettings s, ContactSettings c, const BoxQpMaker& q)
      : model(m),
        settings(std::move(s)),
        contact(std::move(c)),
        solver(q),
        workers([this] { return std::make_unique<ContactWorker>(model, settings, contact, solver); }, settings.threads),
        nx(model.nq + model.nv),
        nu(settings.actuated.size()),
        contacts(contact.balls.size() + contact.pairs.size()),
        dry(contact.dry.size()),
        rows(contacts * contact.directions + contact.limited.size() + dry),
        h(settings.dt / settings.substeps) {}

  // The step k of a group set to a state of the element i.
  void set(ContactWorker& w, const ContactRun& run, std::size_t i, int k, const double* x, int period) {
    workers.set_own_parameters(w, run.p, static_cast<int>(i));
    w.steps[k].set(x, run.u + (i * run.periods + period) * nu,
                   run.friction.data + (run.friction.shared ? 0 : i * contacts));
    w.impulses.set_bounds(k, run.dry.data + (run.dry.shared ? 0 : i * dry), h);
  }

  void run_group(ContactWorker& w, const ContactRun& run, const ContactPath& path, int first, int last,
                 const std::function<bool()>& stop);
  double adjoint_group(ContactWorker& w, const ContactRun& run, const ContactPath& path, const double* by_states,
                       double missing, const ContactGradients& out, int first, int last,
                       const std::function<double*(int)>& by_parameters);

  const pinocchio::Model model;
  const RigidBodySettings settings;
  const ContactSettings contact;
  const BoxQpMaker& solver;
  Workers<ContactWorker> workers;
  const std::size_t nx, nu, contacts, dry, rows;
  const double h;
};

ContactDynamics::ContactDynamics(const pinocchio::Model& model, RigidBodySettings settings, ContactSettings contact,
                                 const BoxQpMaker& solver)
    : implementation_(
          (check(model, contact), new Implementation(model, std::move(settings), std::move(contact), solver))) {}
ContactDynamics::~ContactDynamics() = default;

int ContactDynamics::rows() const { return static_cast<int>(implementation_->rows); }

void ContactDynamics::Implementation::run_group(ContactWorker& w, const ContactRun& run, const ContactPath& path,
                                                int first, int last, const std::function<bool()>& stop) {
  const int count = last - first, substeps = settings.substeps;
  std::vector<double>& x = w.states;
  std::copy(run.x + first * nx, run.x + last * nx, x.begin());
  for (int step = 0; step < run.periods * substeps && !stop(); ++step) {
    const int period = step / substeps;
    // A state that overflows ends its own path; the group goes on with another one in its place.
    const auto going = [&](int k) { return Map<const VectorXd>(x.data() + k * nx, nx).allFinite(); };
    int some = 0;
    while (some < count && !going(some)) ++some;
    for (int k = 0; k < count && some < count; ++k) {
      const int from = going(k) ? k : some;
      set(w, run, first + from, k, x.data() + from * nx, period);
    }
    if (some < count) w.impulses.solve(w.steps, count);
    for (int k = 0; k < count; ++k) {
      const std::size_t i = first + k, at = i * run.periods * substeps + step;
      const bool goes_on = going(k);
      path.status[at] = goes_on ? w.impulses.status(k) : broken;
      if (path.starts != nullptr) {
        std::copy_n(x.data() + k * nx, nx, path.starts + at * nx);
        std::copy_n(w.impulses.impulses(k), rows, path.impulses + at * rows);
        std::copy_n(w.impulses.multipliers(k), rows, path.multipliers + at * rows);
      }
      w.lambda = Map<const VectorXd>(w.impulses.impulses(k), rows);
      const bool shown = (step + 1) % substeps == 0 && path.gaps != nullptr;
      for (std::size_t c = 0; c < contacts && shown; ++c) {
        const std::size_t to = (i * run.periods + period) * contacts + c;
        path.gaps[to] = goes_on ? w.steps[k].gap(static_cast<int>(c)) : nan;
        Map<Vector3d>(path.forces + 3 * to) =
            goes_on ? w.steps[k].force(static_cast<int>(c), w.lambda) : Vector3d::Constant(nan);
      }
      if (has_solution(path.status[at]))
        w.steps[k].step(w.lambda, x.data() + k * nx);
      else
        std::fill_n(x.begin() + k * nx, nx, nan);
      if ((step + 1) % substeps == 0) std::copy_n(x.data() + k * nx, nx, path.states + (i * run.periods + period) * nx);
    }
  }
}

double ContactDynamics::Implementation::adjoint_group(ContactWorker& w, const ContactRun& run, const ContactPath& path,
                                                      const double* by_states, double missing,
                                                      const ContactGradients& out, int first, int last,
                                                      const std::function<double*(int)>& by_parameters) {
  const int count = last - first, substeps = settings.substeps, steps = run.periods * substeps;
  const std::size_t nq = model.nq, nv = model.nv;
  double residual = 0.0;
  for (int k = 0; k < count; ++k) w.carried[k].setZero(2 * nv);
  for (int step = steps - 1; step >= 0; --step) {
    const int period = step / substeps;
    const auto at = [&](int k) { return std::size_t(first + k) * steps + step; };
    const auto solved = [&](int k) { return has_solution(path.status[at(k)]); };
    int some = 0;
    while (some < count && !solved(some)) ++some;
    for (int k = 0; k < count && some < count; ++k) {
      const int from = solved(k) ? k : some;
      const std::size_t i = first + k;
      set(w, run, first + from, k, path.starts + at(from) * nx, period);
      w.impulses.take_solution(w.steps[k], k, path.impulses + at(from) * rows, path.multipliers + at(from) * rows,
                               path.status[at(from)]);
      w.lambda = Map<const VectorXd>(path.impulses + at(from) * rows, rows);
      w.steps[k].step(w.lambda, w.x_next.data());
      if ((step + 1) % substeps == 0)
        w.add_to_tangent(w.x_next.head(nq), by_states + (i * run.periods + period) * nx, w.carried[k]);
      w.steps[k].loss(w.lambda, w.carried[k], w.loss);
      Map<VectorXd>(w.impulses.by_impulses(k), rows) = w.loss;
    }
    if (some < count) residual = std::max(residual, w.impulses.adjoint(count));
    for (int k = 0; k < count; ++k) {
      const std::size_t i = first + k;
      double* by_u = out.by.u == nullptr ? nullptr : out.by.u + (i * run.periods + period) * nu;
      if (!solved(k)) {
        w.carried[k].setConstant(missing);
        for (std::size_t j = 0; j < nu && by_u != nullptr; ++j) by_u[j] += missing;
        continue;
      }
      w.lambda = Map<const VectorXd>(w.impulses.impulses(k), rows);
      w.by_g = Map<const VectorXd>(w.impulses.by_g(k), rows);
      workers.set_own_parameters(w, run.p, static_cast<int>(i));
      w.steps[k].adjoint(w.lambda, w.by_g, w.g_z, by_parameters(static_cast<int>(i)),
                         out.friction == nullptr ? nullptr : out.friction + i * contacts);
      w.carried[k] = w.g_z.head(2 * nv);
      for (std::size_t j = 0; j < nu && by_u != nullptr; ++j) by_u[j] += w.g_z[2 * nv + j];
      if (out.dry != nullptr) w.impulses.add_by_dry(k, h, out.dry + i * dry);
    }
  }
  for (int k = 0; k < count && out.by.x != nullptr; ++k) {
    const double* x = run.x + (first + k) * nx;
    w.from_tangent(Map<const VectorXd>(x, nq), w.carried[k], out.by.x + (first + k) * nx);
  }
  return residual;
}

bool ContactDynamics::run(const ContactRun& run, const ContactPath& path,
                          const std::function<bool()>& interrupted) const {
  auto& all = *implementation_;
  all.workers.check_configurations(run.batch, run.x, static_cast<int>(all.nx));
  std::atomic<bool> stop{false};
  all.workers.for_each_range(run.batch, run.p, nullptr,
                             [&](ContactWorker& w, int first, int last, int thread, const auto&) {
                               const auto asked = [&] {
                                 if (thread == 0 && interrupted()) stop = true;
                                 return stop.load();
                               };
                               for (int i = first; i < last; i += all.solver.width())
                                 all.run_group(w, run, path, i, std::min(i + all.solver.width(), last), asked);
                             });
  return !stop;
}

double ContactDynamics::adjoint(const ContactRun& run, const ContactPath& path, const double* by_states,
                                const ContactGradients& out) const {
  auto& all = *implementation_;
  const double missing = all.solver.nan_without_solution() ? nan : 0.0;
  const std::size_t batch = run.batch;
  if (out.by.u != nullptr) std::fill_n(out.by.u, batch * run.periods * all.nu, 0.0);
  if (out.friction != nullptr) std::fill_n(out.friction, batch * all.contacts, 0.0);
  if (out.dry != nullptr) std::fill_n(out.dry, batch * all.dry, 0.0);
  std::vector<double> residuals((batch + grain - 1) / grain, 0.0);
  all.workers.for_each_range(
      run.batch, run.p, out.by.parameters, [&](ContactWorker& w, int first, int last, int, const auto& by_parameters) {
        double& largest = residuals[first / grain];
        for (int i = first; i < last; i += all.solver.width())
          largest = std::max(largest, all.adjoint_group(w, run, path, by_states, missing, out, i,
                                                        std::min(i + all.solver.width(), last), by_parameters));
      });
  return residuals.empty() ? 0.0 : *std::max_element(residuals.begin(), residuals.end());
}

}  // namespace qp_control
