#include "qp_control/rigid_body.hpp"

#include <Eigen/Cholesky>
#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <mutex>
#include <pinocchio/multibody.hpp>
#include <set>
#include <stdexcept>
#include <string>

#include "evaluator.hpp"
#include "qp_control/batch.hpp"
#include "step.hpp"

namespace qp_control {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Elements per range of the batch; fixes the order in which shared gradients are added up.
constexpr int grain = 8;

// Central differences: truncation step^2 and rounding eps/step balance at about eps^(1/3).
constexpr double difference_step = 6e-6;

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
        a_q(MatrixXd::Zero(robot.nv(), robot.nv())),
        a_v(a_q),
        a_tau(a_q),
        a_p(robot.nv(), robot.n_par()),
        T_w(a_q),
        T(MatrixXd::Zero(robot.nq(), robot.nv())) {}

  // Least-norm gradient w.r.t. configuration coordinates that has the given tangent gradient.
  void write_configuration_gradient(const VectorXd& at, const Eigen::Ref<const VectorXd>& tangent, double* out) {
    if (robot.vector_space()) {
      Eigen::Map<VectorXd>(out, robot.nq()) = tangent;
      return;
    }
    robot.tangent_map(at, T);
    Eigen::Map<VectorXd>(out, robot.nq()) = T * (T.transpose() * T).ldlt().solve(tangent);
  }

  Evaluator robot;
  StepMap step;
  VectorXd q, q_next, v, tau, a, w, lambda, g_z, z, x_next;
  MatrixXd a_q, a_v, a_tau, a_p, T_w, T;
};

void check_settings(const pinocchio::Model& model, const RigidBodySettings& s) {
  const auto fail = [](const std::string& what) { throw std::invalid_argument(what); };
  if (!(s.dt > 0.0) || !std::isfinite(s.dt)) fail("dt is " + std::to_string(s.dt) + ", expected a positive time [s]");
  if (s.substeps < 1) fail("substeps is " + std::to_string(s.substeps) + ", expected at least 1");
  std::set<int> seen;
  for (int i : s.actuated) {
    if (i < 0 || i >= model.nv)
      fail("actuated has index " + std::to_string(i) + ", expected 0 to nv - 1 = " + std::to_string(model.nv - 1));
    if (!seen.insert(i).second) fail("actuated has index " + std::to_string(i) + " twice");
  }
  for (const auto& joint : model.joints)
    if (joint.shortname() == "JointModelMimic")
      fail("the model has mimic joints, expected none: forward dynamics does not support them");
}

}  // namespace

struct RigidBody::Implementation {
  Implementation(const pinocchio::Model& m, RigidBodySettings s) : model(m), settings(std::move(s)) {
    check_settings(model, settings);
    workers.push_back(std::make_unique<Worker>(model, settings));
    const VectorXd p = workers[0]->robot.nominal_parameters();
    nominal.assign(p.data(), p.data() + p.size());
  }

  std::unique_ptr<Worker> acquire() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      if (!workers.empty()) {
        auto worker = std::move(workers.back());
        workers.pop_back();
        return worker;
      }
    }
    return std::make_unique<Worker>(model, settings);
  }

  void release(std::unique_ptr<Worker> worker) {
    std::lock_guard<std::mutex> lock(mutex);
    workers.push_back(std::move(worker));
  }

  // Calls body(worker, element, gradient of the parameters or null) for every element; the parameters are set before.
  // Workers are taken from a free list, so that calls from several threads of the user do not meet.
  void for_each(int batch, Parameters p, double* gradient,
                const std::function<void(Worker&, int, double*)>& body) const {
    auto& self = const_cast<Implementation&>(*this);
    const int n_par = static_cast<int>(nominal.size());
    const int ranges = (batch + grain - 1) / grain;
    std::vector<double> partial(gradient != nullptr && p.shared ? std::size_t(ranges) * n_par : 0, 0.0);
    if (gradient != nullptr) std::fill_n(gradient, p.shared ? n_par : std::size_t(batch) * n_par, 0.0);
    parallel_for(batch, grain, settings.threads, [&](int first, int last, int) {
      std::unique_ptr<Worker> worker = self.acquire();
      if (p.shared) worker->robot.set_parameters(p.data != nullptr ? p.data : nominal.data());
      for (int i = first; i < last; ++i) {
        if (!p.shared) worker->robot.set_parameters(p.data + std::size_t(i) * n_par);
        double* g = nullptr;
        if (gradient != nullptr)
          g = p.shared ? partial.data() + std::size_t(first / grain) * n_par : gradient + std::size_t(i) * n_par;
        body(*worker, i, g);
      }
      self.release(std::move(worker));
    });
    if (gradient != nullptr && p.shared)
      for (int r = 0; r < ranges; ++r)
        for (int k = 0; k < n_par; ++k) gradient[k] += partial[std::size_t(r) * n_par + k];
  }

  // Throws unless the quaternions and the (cos, sin) pairs of all configurations have length one.
  void check_configurations(int batch, const double* q, int stride) const {
    if (model.nq == model.nv) return;
    auto& self = const_cast<Implementation&>(*this);
    std::unique_ptr<Worker> worker = self.acquire();
    int bad = -1;
    for (int i = 0; i < batch && bad < 0; ++i) {
      worker->q = Eigen::Map<const VectorXd>(q + std::size_t(i) * stride, model.nq);
      if (!worker->robot.normalized(worker->q)) bad = i;
    }
    self.release(std::move(worker));
    if (bad >= 0)
      throw std::invalid_argument("the configuration of batch element " + std::to_string(bad) +
                                  " is not on the manifold, expected unit quaternions and cos^2 + sin^2 = 1");
  }

  const pinocchio::Model model;
  const RigidBodySettings settings;
  std::vector<double> nominal;
  std::mutex mutex;
  std::vector<std::unique_ptr<Worker>> workers;
};

RigidBody::RigidBody(const pinocchio::Model& model, RigidBodySettings settings)
    : implementation_(new Implementation(model, std::move(settings))) {}
RigidBody::~RigidBody() = default;

int RigidBody::nq() const { return implementation_->model.nq; }
int RigidBody::nv() const { return implementation_->model.nv; }
int RigidBody::nu() const { return static_cast<int>(implementation_->settings.actuated.size()); }
int RigidBody::n_par() const { return static_cast<int>(implementation_->nominal.size()); }
int RigidBody::bodies() const { return implementation_->model.njoints - 1; }
bool RigidBody::vector_space() const { return nq() == nv(); }
const std::vector<double>& RigidBody::nominal_parameters() const { return implementation_->nominal; }

void RigidBody::forward_dynamics(int batch, const double* q, const double* v, const double* tau, Parameters p,
                                 double* qdd, double* dq, double* dv, double* dtau, double* dparameters) const {
  const std::size_t nq = this->nq(), nv = this->nv(), n_par = this->n_par();
  implementation_->check_configurations(batch, q, static_cast<int>(nq));
  implementation_->for_each(batch, p, nullptr, [&](Worker& w, int i, double*) {
    w.q = Eigen::Map<const VectorXd>(q + i * nq, nq);
    w.v = Eigen::Map<const VectorXd>(v + i * nv, nv);
    w.tau = Eigen::Map<const VectorXd>(tau + i * nv, nv);
    if (dq == nullptr) {
      w.robot.acceleration(w.q, w.v, w.tau, w.a);
    } else {
      w.robot.acceleration(w.q, w.v, w.tau, w.a, w.a_q, w.a_v, w.a_tau);
      Eigen::Map<RowMajor>(dq + i * nv * nv, nv, nv) = w.a_q;
      Eigen::Map<RowMajor>(dv + i * nv * nv, nv, nv) = w.a_v;
      Eigen::Map<RowMajor>(dtau + i * nv * nv, nv, nv) = w.a_tau;
      w.robot.parameter_jacobian(w.q, w.v, w.a, w.a_tau, w.a_p);
      Eigen::Map<RowMajor>(dparameters + i * nv * n_par, nv, n_par) = w.a_p;
    }
    Eigen::Map<VectorXd>(qdd + i * nv, nv) = w.a;
  });
}

void RigidBody::forward_dynamics_adjoint(int batch, const double* q, const double* v, const double* tau, Parameters p,
                                         const double* g, Gradients out) const {
  const std::size_t nq = this->nq(), nv = this->nv();
  implementation_->check_configurations(batch, q, static_cast<int>(nq));
  implementation_->for_each(batch, p, out.parameters, [&](Worker& w, int i, double* g_p) {
    w.q = Eigen::Map<const VectorXd>(q + i * nq, nq);
    w.v = Eigen::Map<const VectorXd>(v + i * nv, nv);
    w.tau = Eigen::Map<const VectorXd>(tau + i * nv, nv);
    const Eigen::Map<const VectorXd> g_a(g + i * nv, nv);
    w.robot.acceleration(w.q, w.v, w.tau, w.a, w.a_q, w.a_v, w.a_tau);
    w.w.noalias() = w.a_tau * g_a;
    if (out.x != nullptr) {
      double* g_x = out.x + i * (nq + nv);
      w.write_configuration_gradient(w.q, w.a_q.transpose() * g_a, g_x);
      Eigen::Map<VectorXd>(g_x + nq, nv).noalias() = w.a_v.transpose() * g_a;
    }
    if (out.u != nullptr) Eigen::Map<VectorXd>(out.u + i * nv, nv) = w.w;
    if (g_p != nullptr) w.robot.parameter_adjoint(w.q, w.v, w.a, w.w, g_p);
  });
}

void RigidBody::step(int batch, const double* x, const double* u, Parameters p, double* x_next) const {
  const std::size_t nx = nq() + nv(), nu = this->nu();
  implementation_->check_configurations(batch, x, static_cast<int>(nx));
  implementation_->for_each(batch, p, nullptr,
                            [&](Worker& w, int i, double*) { w.step.value(x + i * nx, u + i * nu, x_next + i * nx); });
}

void RigidBody::linearize(int batch, const double* x, const double* u, Parameters p, double* x_next, double* A,
                          double* B, double* P) const {
  const std::size_t nx = nq() + nv(), ndx = 2 * nv(), nu = this->nu(), n_par = this->n_par();
  implementation_->check_configurations(batch, x, static_cast<int>(nx));
  implementation_->for_each(batch, p, nullptr, [&](Worker& w, int i, double*) {
    w.step.tangent(x + i * nx, u + i * nu, x_next + i * nx, A + i * ndx * ndx, B + i * ndx * nu,
                   P != nullptr ? P + i * ndx * n_par : nullptr);
  });
}

void RigidBody::linearize_adjoint(int batch, const double* x, const double* u, Parameters p, const double* g_next,
                                  const double* g_A, const double* g_B, Gradients out) const {
  const bool second = g_A != nullptr || g_B != nullptr;
  if (second && !vector_space())
    throw std::invalid_argument(
        "second derivatives exist only for configurations in a vector space (nq = nv), got nq = " +
        std::to_string(nq()) + " and nv = " + std::to_string(nv()) + "; detach A and B");
  const int nq = this->nq(), nv = this->nv(), nu = this->nu(), nx = nq + nv, ndx = 2 * nv, nz = ndx + nu;
  implementation_->check_configurations(batch, x, nx);
  implementation_->for_each(batch, p, out.parameters, [&](Worker& w, int i, double* g_p) {
    const double* x_i = x + std::size_t(i) * nx;
    const double* u_i = u + std::size_t(i) * nu;
    VectorXd total = VectorXd::Zero(nz);
    w.q = Eigen::Map<const VectorXd>(x_i, nq);

    if (g_next != nullptr) {
      const double* g = g_next + std::size_t(i) * nx;
      if (w.robot.vector_space()) {
        w.lambda.head(nv) = Eigen::Map<const VectorXd>(g, nv);
      } else {
        w.x_next.resize(nx);
        w.step.value(x_i, u_i, w.x_next.data());
        w.q_next = w.x_next.head(nq);
        w.robot.tangent_map(w.q_next, w.T);
        w.lambda.head(nv).noalias() = w.T.transpose() * Eigen::Map<const VectorXd>(g, nq);
      }
      w.lambda.tail(nv) = Eigen::Map<const VectorXd>(g + nq, nv);
      w.step.adjoint(x_i, u_i, w.lambda, w.g_z, g_p);
      total += w.g_z;
    }

    if (second) {
      // With G = [g_A g_B] = sum_r a_r b_r' the gradient of <G, [A B]> is sum_r of the derivative of [A B P]' a_r in
      // the direction b_r (second derivatives commute). Gradients that come from a QP have rank 2.
      MatrixXd G = MatrixXd::Zero(ndx, nz);
      if (g_A != nullptr) G.leftCols(ndx) = Eigen::Map<const RowMajor>(g_A + std::size_t(i) * ndx * ndx, ndx, ndx);
      if (g_B != nullptr) G.rightCols(nu) = Eigen::Map<const RowMajor>(g_B + std::size_t(i) * ndx * nu, ndx, nu);
      Eigen::ColPivHouseholderQR<MatrixXd> qr;
      qr.setThreshold(1e-13);
      qr.compute(G);
      const int rank = static_cast<int>(qr.rank());
      const MatrixXd a = MatrixXd(qr.householderQ()).leftCols(rank);
      const MatrixXd b =
          MatrixXd(qr.matrixQR().topRows(rank).triangularView<Eigen::Upper>()) * qr.colsPermutation().inverse();
      VectorXd z(nz);
      z << Eigen::Map<const VectorXd>(x_i, nx), Eigen::Map<const VectorXd>(u_i, nu);
      // Angles [rad], positions [m] and velocities bend the dynamics on a scale of about one, wherever they are; the
      // dynamics are affine in forces, whose step grows with them to keep its digits.
      VectorXd scale = VectorXd::Ones(nz);
      scale.tail(nu) = z.tail(nu).cwiseAbs().cwiseMax(1.0);
      for (int r = 0; r < rank; ++r) {
        const VectorXd direction = b.row(r);
        const double longest = direction.cwiseQuotient(scale).cwiseAbs().maxCoeff();
        if (longest == 0.0) continue;
        const double h = difference_step / longest;
        for (const double sign : {1.0, -1.0}) {
          w.z = z + sign * h * direction;
          w.lambda = (sign / (2.0 * h)) * a.col(r);
          w.step.adjoint(w.z.data(), w.z.data() + nx, w.lambda, w.g_z, g_p);
          total += w.g_z;
        }
      }
    }

    if (out.x != nullptr) {
      double* g_x = out.x + std::size_t(i) * nx;
      w.write_configuration_gradient(w.q, total.head(nv), g_x);
      Eigen::Map<VectorXd>(g_x + nq, nv) = total.segment(nv, nv);
    }
    if (out.u != nullptr) Eigen::Map<VectorXd>(out.u + std::size_t(i) * nu, nu) = total.tail(nu);
  });
}

void RigidBody::second_order(int batch, const double* x, const double* u, Parameters p, const double* y,
                             double* hessian) const {
  const int nq = this->nq(), nv = this->nv(), nu = this->nu(), nx = nq + nv, ndx = 2 * nv, nz = ndx + nu;
  implementation_->check_configurations(batch, x, nx);
  implementation_->for_each(batch, p, nullptr, [&](Worker& w, int i, double*) {
    const double* x_i = x + std::size_t(i) * nx;
    const double* u_i = u + std::size_t(i) * nu;
    const Eigen::Map<const VectorXd> y_i(y + std::size_t(i) * ndx, ndx);
    Eigen::Map<RowMajor> H(hessian + std::size_t(i) * nz * nz, nz, nz);
    const bool flat = w.robot.vector_space();
    w.q = Eigen::Map<const VectorXd>(x_i, nq);
    if (!flat) {
      w.x_next.resize(nx);
      w.step.value(x_i, u_i, w.x_next.data());
    }
    VectorXd moved(nx), tangent = VectorXd::Zero(nv);
    w.z.resize(nx + nu);
    H.setZero();
    for (int j = 0; j < nz; ++j) {
      // As above: forces enter affinely, their step may grow with them.
      const double h = difference_step * (j < ndx ? 1.0 : std::max(1.0, std::abs(u_i[j - ndx])));
      for (const double sign : {1.0, -1.0}) {
        w.z << Eigen::Map<const VectorXd>(x_i, nx), Eigen::Map<const VectorXd>(u_i, nu);
        if (j < nv) {
          tangent[j] = sign * h;
          w.robot.integrate(w.q, tangent, w.q_next);
          w.z.head(nq) = w.q_next;
        } else {
          w.z[nq + j - nv] += sign * h;
        }
        w.lambda = y_i;
        if (!flat) {
          w.step.value(w.z.data(), w.z.data() + nx, moved.data());
          w.robot.difference_adjoint(w.x_next.head(nq), moved.head(nq), w.lambda);
        }
        w.step.adjoint(w.z.data(), w.z.data() + nx, w.lambda, w.g_z, nullptr);
        if (!flat && j < nv) {
          w.robot.integrate_jacobians(w.q, tangent, w.a_q, w.T_w);
          w.g_z.head(nv) = w.T_w.transpose() * w.g_z.head(nv).eval();
        }
        H.col(j) += sign / (2.0 * h) * w.g_z;
      }
      if (j < nv) tangent[j] = 0.0;
    }
    H = (0.5 * (H + H.transpose())).eval();
  });
}

}  // namespace qp_control
