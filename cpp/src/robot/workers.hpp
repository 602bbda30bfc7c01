// What the batched methods of RigidBody share: workers, references and checks.
#pragma once

#include <Eigen/Cholesky>
#include <functional>
#include <memory>
#include <mutex>
#include <pinocchio/multibody.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "evaluator.hpp"
#include "qp_control/batch.hpp"
#include "qp_control/rigid_body.hpp"
#include "step.hpp"

namespace qp_control {

// Elements per range of the batch; fixes the order in which shared gradients are added up.
inline constexpr int grain = 8;

struct Worker {
  Worker(const pinocchio::Model& model, const RigidBodySettings& settings)
      : robot(model),
        step(robot, settings),
        q(robot.nq()),
        q_next(robot.nq()),
        v(robot.nv()),
        tau(robot.nv()),
        a(robot.nv()),
        lambda(2 * robot.nv()),
        a_q(Eigen::MatrixXd::Zero(robot.nv(), robot.nv())),
        a_v(a_q),
        a_tau(a_q),
        a_p(robot.nv(), robot.n_par()),
        J(a_q),
        J_q(a_q),
        T(Eigen::MatrixXd::Zero(robot.nq(), robot.nv())) {}

  // Least-norm gradient w.r.t. configuration coordinates that has the given tangent gradient.
  void write_configuration_gradient(const Eigen::VectorXd& at, const Eigen::Ref<const Eigen::VectorXd>& tangent,
                                    double* out) {
    if (robot.vector_space()) {
      Eigen::Map<Eigen::VectorXd>(out, robot.nq()) = tangent;
      return;
    }
    robot.tangent_map(at, T);
    Eigen::Map<Eigen::VectorXd>(out, robot.nq()) = T * (T.transpose() * T).ldlt().solve(tangent);
  }

  // The same of a state, whose gradient is (2 nv).
  void write_gradient(const double* state, const Eigen::VectorXd& tangent, double* out) {
    q = Eigen::Map<const Eigen::VectorXd>(state, robot.nq());
    write_configuration_gradient(q, tangent.head(robot.nv()), out);
    Eigen::Map<Eigen::VectorXd>(out + robot.nq(), robot.nv()) = tangent.tail(robot.nv());
  }

  // q_next = q (+) the configuration's part of xi, its Jacobian by that in J and the tangent map there in T.
  void integrate_with_jacobians(const double* xi) {
    v = Eigen::Map<const Eigen::VectorXd>(xi, robot.nv());
    robot.integrate(q, v, q_next);
    robot.integrate_jacobians(q, v, nullptr, J);
    robot.tangent_map(q_next, T);
  }

  Evaluator robot;
  StepMap step;
  Eigen::VectorXd q, q_next, v, tau, a, w, lambda, g_z, g_now, g_next, x_next;
  Eigen::MatrixXd a_q, a_v, a_tau, a_p, J, J_q, T, second, directions;
};

// Workers for a batch, each with its own memory. They are taken from a free list, so that calls from several threads of
// the user do not meet.
template <class Worker>
class Workers {
 public:
  Workers(std::function<std::unique_ptr<Worker>()> make, int threads) : make_(std::move(make)), threads_(threads) {
    free_.push_back(make_());
    const Eigen::VectorXd p = free_[0]->robot.nominal_parameters();
    nominal.assign(p.data(), p.data() + p.size());
  }

  std::unique_ptr<Worker> acquire() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        auto worker = std::move(free_.back());
        free_.pop_back();
        return worker;
      }
    }
    return make_();
  }

  void release(std::unique_ptr<Worker> worker) {
    std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(worker));
  }

  // Calls body(worker, element, gradient of the parameters or null) for every element; the parameters are set before.
  void for_each(int batch, Parameters p, double* gradient, const std::function<void(Worker&, int, double*)>& body) {
    for_each_range(batch, p, gradient, [&](Worker& worker, int first, int last, int, const auto& gradient_of) {
      for (int i = first; i < last; ++i) {
        set_own_parameters(worker, p, i);
        body(worker, i, gradient_of(i));
      }
    });
  }

  // Calls body(worker, first, last, number of the thread, element -> where its gradient by the parameters is added) for
  // ranges of elements; parameters that all share are set before.
  template <class Body>
  void for_each_range(int batch, Parameters p, double* gradient, const Body& body) {
    const int n_par = static_cast<int>(nominal.size());
    const int ranges = (batch + grain - 1) / grain;
    std::vector<double> partial(gradient != nullptr && p.shared ? std::size_t(ranges) * n_par : 0, 0.0);
    if (gradient != nullptr) std::fill_n(gradient, p.shared ? n_par : std::size_t(batch) * n_par, 0.0);
    parallel_for(batch, grain, threads_, [&](int first, int last, int thread) {
      std::unique_ptr<Worker> worker = acquire();
      if (p.shared) worker->robot.set_parameters(p.data != nullptr ? p.data : nominal.data());
      body(*worker, first, last, thread, [&](int i) -> double* {
        if (gradient == nullptr) return nullptr;
        return p.shared ? partial.data() + std::size_t(first / grain) * n_par : gradient + std::size_t(i) * n_par;
      });
      release(std::move(worker));
    });
    if (gradient != nullptr && p.shared)
      for (int r = 0; r < ranges; ++r)
        for (int k = 0; k < n_par; ++k) gradient[k] += partial[std::size_t(r) * n_par + k];
  }

  void set_own_parameters(Worker& worker, Parameters p, int i) const {
    if (!p.shared) worker.robot.set_parameters(p.data + std::size_t(i) * nominal.size());
  }

  // Throws unless the quaternions and the (cos, sin) pairs of all configurations have length one.
  void check_configurations(int batch, const double* q, int stride) {
    std::unique_ptr<Worker> worker = acquire();
    const int nq = worker->robot.nq();
    int bad = -1;
    for (int i = 0; i < batch && bad < 0 && !worker->robot.vector_space(); ++i)
      if (!worker->robot.normalized(Eigen::Map<const Eigen::VectorXd>(q + std::size_t(i) * stride, nq))) bad = i;
    release(std::move(worker));
    if (bad >= 0)
      throw std::invalid_argument("the configuration of batch element " + std::to_string(bad) +
                                  " is not on the manifold, expected unit quaternions and cos^2 + sin^2 = 1");
  }

  std::vector<double> nominal;

 private:
  const std::function<std::unique_ptr<Worker>()> make_;
  const int threads_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Worker>> free_;
};

struct RigidBody::Implementation {
  Implementation(const pinocchio::Model& m, RigidBodySettings s)
      : model(m),
        settings(std::move(s)),
        workers([this] { return std::make_unique<Worker>(model, settings); }, settings.threads),
        nominal(workers.nominal) {}

  void for_each(int batch, Parameters p, double* gradient,
                const std::function<void(Worker&, int, double*)>& body) const {
    workers.for_each(batch, p, gradient, body);
  }

  void check_configurations(int batch, const double* q, int stride) const {
    workers.check_configurations(batch, q, stride);
  }

  // Throws unless what the states of a control period are made of lies on the manifold.
  void check_states(int batch, const double* x, Charts charts) const {
    const int nx = model.nq + model.nv;
    if (charts.now.data == nullptr) {
      check_configurations(batch, x, nx);
      return;
    }
    for (const Reference& r : {charts.now, charts.next}) check_configurations(r.shared ? 1 : batch, r.data, nx);
  }

  const double* at(Reference r, int i) const {
    return r.data == nullptr || r.shared ? r.data : r.data + std::size_t(i) * (model.nq + model.nv);
  }

  // The step of element i in its coordinates.
  StepMap& step(Worker& w, Charts charts, int i) const {
    w.step.between(at(charts.now, i), at(charts.next, i));
    return w.step;
  }

  int coordinates(Charts charts) const { return charts.now.data == nullptr ? model.nq + model.nv : 2 * model.nv; }

  // Calls body(worker, element, reference of the element) for every element, the reference's configuration in w.q.
  void for_each_reference(int batch, Reference r, const std::function<void(Worker&, int, const double*)>& body) const {
    check_configurations(r.shared ? 1 : batch, r.data, model.nq + model.nv);
    for_each(batch, {}, nullptr, [&](Worker& w, int i, double*) {
      w.q = Eigen::Map<const Eigen::VectorXd>(at(r, i), model.nq);
      body(w, i, at(r, i));
    });
  }

  const pinocchio::Model model;
  const RigidBodySettings settings;
  mutable Workers<Worker> workers;
  const std::vector<double>& nominal;
};

}  // namespace qp_control
