#include "qp_control/rigid_body.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <pinocchio/algorithm/jacobian.hpp>
#include <pinocchio/multibody.hpp>
#include <set>
#include <stdexcept>
#include <string>

#include "workers.hpp"

namespace qp_control {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Pinocchio computes accelerations of every tree, but wrong derivatives, without a word, of those that are refused
// here.
void check_derivatives(const pinocchio::Model& model) {
  const Evaluator robot(model);
  const VectorXd neutral = robot.neutral(), motion = VectorXd::LinSpaced(model.nv, 0.3, 0.9);
  VectorXd moved(model.nq);
  robot.integrate(neutral, motion, moved);
  pinocchio::Data data(model);
  const auto axes = [&](const VectorXd& q) {  // of all joints, each in its body
    pinocchio::computeJointJacobians(model, data, q);
    MatrixXd J = MatrixXd::Zero(6, model.nv), out(6, model.nv);
    for (int j = 1; j < model.njoints; ++j) {
      pinocchio::getJointJacobian(model, data, j, pinocchio::LOCAL, J);
      out.middleCols(model.idx_vs[j], model.nvs[j]) = J.middleCols(model.idx_vs[j], model.nvs[j]);
    }
    return out;
  };
  const MatrixXd before_motion = axes(neutral), after_motion = axes(moved);
  constexpr double rounding = 1e-6;  // of robots far from the world's origin
  for (int j = 1; j < model.njoints; ++j) {
    const int first = model.idx_vs[j], size = model.nvs[j];
    if (!before_motion.middleCols(first, size).isApprox(after_motion.middleCols(first, size), rounding))
      throw std::invalid_argument("the joint '" + model.names[j] + "' is a " + model.joints[j].shortname() +
                                  ", whose axes turn in the body that it moves, expected fixed axes: model it as "
                                  "single joints one after the other");
    int before = j - 1;
    while (before > 0 && before != static_cast<int>(model.parents[j])) before = static_cast<int>(model.parents[before]);
    if (before != static_cast<int>(model.parents[j]))
      throw std::invalid_argument("the joint '" + model.names[j] +
                                  "' comes after joints of another branch, expected the joints in depth-first order: "
                                  "add all that a joint carries before its siblings");
  }
}

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
  check_derivatives(model);
}

// An element that the loss does not depend on has no gradient, even if its derivatives are not finite (0 inf is NaN).
bool is_zero(const Eigen::Ref<const VectorXd>& gradient) { return (gradient.array() == 0.0).all(); }

}  // namespace

RigidBody::RigidBody(const pinocchio::Model& model, RigidBodySettings settings)
    : implementation_((check_settings(model, settings), new Implementation(model, std::move(settings)))) {}
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
      if (dparameters != nullptr) {
        w.robot.parameter_jacobian(w.q, w.v, w.a, w.a_tau, w.a_p);
        Eigen::Map<RowMajor>(dparameters + i * nv * n_par, nv, n_par) = w.a_p;
      }
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
    if (is_zero(g_a)) {
      if (out.x != nullptr) Eigen::Map<VectorXd>(out.x + i * (nq + nv), nq + nv).setZero();
      if (out.u != nullptr) Eigen::Map<VectorXd>(out.u + i * nv, nv).setZero();
      return;
    }
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

void RigidBody::step(int batch, const double* x, const double* u, Parameters p, double* x_next, Charts charts) const {
  const std::size_t nx = implementation_->coordinates(charts), nu = this->nu();
  implementation_->check_states(batch, x, charts);
  implementation_->for_each(batch, p, nullptr, [&](Worker& w, int i, double*) {
    implementation_->step(w, charts, i).value(x + i * nx, u + i * nu, x_next + i * nx);
  });
}

void RigidBody::linearize(int batch, const double* x, const double* u, Parameters p, double* x_next, double* A,
                          double* B, double* P, Charts charts) const {
  const std::size_t nx = implementation_->coordinates(charts), ndx = 2 * nv(), nu = this->nu(), n_par = this->n_par();
  implementation_->check_states(batch, x, charts);
  implementation_->for_each(batch, p, nullptr, [&](Worker& w, int i, double*) {
    implementation_->step(w, charts, i)
        .tangent(x + i * nx, u + i * nu, x_next + i * nx, A + i * ndx * ndx, B + i * ndx * nu,
                 P != nullptr ? P + i * ndx * n_par : nullptr);
  });
}

void RigidBody::linearize_adjoint(int batch, const double* x, const double* u, Parameters p, const double* g_next,
                                  const double* g_A, const double* g_B, Gradients out, Charts charts) const {
  const bool second = g_A != nullptr || g_B != nullptr;
  const int nq = this->nq(), nv = this->nv(), nu = this->nu(), ndx = 2 * nv, nz = ndx + nu;
  const int nx = implementation_->coordinates(charts);
  const bool flat = nx == ndx, references = out.now != nullptr || out.next != nullptr;
  if (references && charts.now.data == nullptr) throw std::invalid_argument("there are no references");
  if (second && !flat)
    throw std::invalid_argument(
        "second derivatives exist only for configurations in a vector space (nq = nv), got nq = " + std::to_string(nq) +
        " and nv = " + std::to_string(nv) + "; detach A and B, or take errors from a reference");
  implementation_->check_states(batch, x, charts);
  implementation_->for_each(batch, p, out.parameters, [&](Worker& w, int i, double* g_p) {
    const double* x_i = x + std::size_t(i) * nx;
    const double* u_i = u + std::size_t(i) * nu;
    VectorXd total = VectorXd::Zero(nz), by_now, by_next;
    if (references) by_now = by_next = VectorXd::Zero(ndx);
    StepMap& step = implementation_->step(w, charts, i);
    const auto add_references = [&] {
      by_now += w.g_now;
      by_next += w.g_next;
    };

    const double* g = g_next == nullptr ? nullptr : g_next + std::size_t(i) * nx;
    if (g != nullptr && !is_zero(Eigen::Map<const VectorXd>(g, nx))) {
      w.x_next.resize(nx);
      step.record(x_i, u_i, w.x_next.data());
      if (flat) {
        w.lambda.head(nv) = Eigen::Map<const VectorXd>(g, nv);
      } else {
        w.q_next = w.x_next.head(nq);
        w.robot.tangent_map(w.q_next, w.T);
        w.lambda.head(nv).noalias() = w.T.transpose() * Eigen::Map<const VectorXd>(g, nq);
      }
      w.lambda.tail(nv) = Eigen::Map<const VectorXd>(g + nx - nv, nv);
      step.adjoint(w.lambda, w.g_z, g_p);
      total += w.g_z;
      if (references) {
        step.reference_adjoint(x_i, w.lambda, w.g_now, w.g_next);
        add_references();
      }
    }

    if (second) {
      // With G = [g_A g_B] = sum_r a_r b_r' the gradient of <G, [A B]> is sum_r of the change of [A B P]' a_r along b_r
      // (second derivatives commute). Gradients that come from a QP have rank 2.
      MatrixXd G = MatrixXd::Zero(ndx, nz);
      if (g_A != nullptr) G.leftCols(ndx) = Eigen::Map<const RowMajor>(g_A + std::size_t(i) * ndx * ndx, ndx, ndx);
      if (g_B != nullptr) G.rightCols(nu) = Eigen::Map<const RowMajor>(g_B + std::size_t(i) * ndx * nu, ndx, nu);
      double first = 0.0;
      for (int r = 0; r < ndx; ++r) {  // elimination with complete pivoting
        Eigen::Index row, column;
        const double pivot = G.cwiseAbs().maxCoeff<Eigen::PropagateNaN>(&row, &column);
        if (r == 0) first = pivot;
        if (pivot == 0.0 || pivot <= 1e-13 * first) break;
        w.lambda = G.col(column) / G(row, column);
        w.directions = G.row(row).transpose();
        G.noalias() -= w.lambda * w.directions.transpose();
        step.curvature(x_i, u_i, w.lambda, w.directions, w.second, g_p, r > 0);
        total += w.second.col(0);
        if (!references) continue;
        step.reference_curvature(x_i, w.directions, w.g_now, w.g_next);
        add_references();
      }
    }

    if (out.x != nullptr) {
      double* g_x = out.x + std::size_t(i) * nx;
      if (flat) {
        Eigen::Map<VectorXd>(g_x, nv) = total.head(nv);
      } else {
        w.q = Eigen::Map<const VectorXd>(x_i, nq);
        w.write_configuration_gradient(w.q, total.head(nv), g_x);
      }
      Eigen::Map<VectorXd>(g_x + nx - nv, nv) = total.segment(nv, nv);
    }
    if (out.u != nullptr) Eigen::Map<VectorXd>(out.u + std::size_t(i) * nu, nu) = total.tail(nu);
    const std::size_t full = nq + nv;
    if (out.now != nullptr) w.write_gradient(implementation_->at(charts.now, i), by_now, out.now + i * full);
    if (out.next != nullptr) w.write_gradient(implementation_->at(charts.next, i), by_next, out.next + i * full);
  });
}

void RigidBody::second_order(int batch, const double* x, const double* u, Parameters p, const double* y,
                             double* hessian, Charts charts) const {
  const int nv = this->nv(), nu = this->nu(), ndx = 2 * nv, nz = ndx + nu;
  const int nx = implementation_->coordinates(charts);
  implementation_->check_states(batch, x, charts);
  implementation_->for_each(batch, p, nullptr, [&](Worker& w, int i, double*) {
    const double* x_i = x + std::size_t(i) * nx;
    const Eigen::Map<const VectorXd> u_i(u + std::size_t(i) * nu, nu), y_i(y + std::size_t(i) * ndx, ndx);
    Eigen::Map<RowMajor> H(hessian + std::size_t(i) * nz * nz, nz, nz);
    StepMap& step = implementation_->step(w, charts, i);
    VectorXd z(nz);
    if (nx == ndx) {
      z << Eigen::Map<const VectorXd>(x_i, ndx), u_i;
    } else {
      w.x_next.resize(nx);
      step.value(x_i, u_i.data(), w.x_next.data());
      step.between(x_i, w.x_next.data());
      z << VectorXd::Zero(ndx), u_i;
    }
    w.lambda = y_i;
    w.directions.setIdentity(nz, nz);
    step.curvature(z.data(), z.data() + ndx, w.lambda, w.directions, w.second, nullptr, false);
    H = 0.5 * (w.second + w.second.transpose());
  });
}

}  // namespace qp_control
