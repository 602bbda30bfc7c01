#include "step.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Scheme make_scheme(Integrator integrator, bool vector_space) {
  switch (integrator) {
    case Integrator::euler:
      return {1, {{0, {1.0}, {1.0}}}};
    case Integrator::semi_implicit:
      return {1, {{0, {0.0, 1.0}, {1.0}}}};
    case Integrator::rk4:
      break;
  }
  const double s = 1.0 / 6.0, t = 1.0 / 12.0;
  const std::vector<double> quadrature = {s, 2 * s, 2 * s, s};
  Scheme scheme{4, {{0, {0.5}, {0.5}}, {0, {0.0, 0.5}, {0.0, 0.5}}}};
  if (vector_space) {
    scheme.nodes.push_back({0, {0.0, 0.0, 1.0}, {0.0, 0.0, 1.0}});
    scheme.nodes.push_back({0, quadrature, quadrature});
  } else {
    scheme.nodes.push_back({1, {-0.5, 0.0, 1.0}, {0.0, 0.0, 1.0}});
    scheme.nodes.push_back({0, {3 * t, 2 * t, 2 * t, -t}, {}});
    scheme.nodes.push_back({4, {-t, 2 * t, 2 * t, 3 * t}, quadrature});
  }
  return scheme;
}

StepMap::StepMap(Evaluator& robot, const RigidBodySettings& settings)
    : robot_(robot),
      scheme_(make_scheme(settings.integrator, robot.vector_space())),
      h_(settings.dt / settings.substeps),
      substeps_(settings.substeps),
      actuated_(settings.actuated),
      nq_(robot.nq()),
      nv_(robot.nv()),
      nu_(static_cast<int>(settings.actuated.size())),
      nodes_(scheme_.nodes.size() + 1),
      J_now_(MatrixXd::Zero(nv_, nv_)),
      J_next_(J_now_),
      J_reference_(J_now_),
      tau_(VectorXd::Zero(nv_)),
      w_(nv_),
      by_q_(nv_),
      by_v_(nv_),
      a_p_(nv_, robot.n_par()),
      tape_(settings.substeps, std::vector<Moment>(nodes_.size())),
      starts_(nq_ + nv_, settings.substeps),
      D_starts_(settings.substeps),
      group_(robot),
      N_(J_now_) {
  for (Node& n : nodes_) {
    n.q.resize(nq_);
    for (VectorXd* d : {&n.v, &n.w, &n.a, &n.l_q, &n.l_v, &n.l_a}) d->setZero(nv_);
    for (MatrixXd* d : {&n.a_q, &n.a_v, &n.a_tau, &n.J_q, &n.J_w}) d->setZero(nv_, nv_);
  }
}

void StepMap::between(const double* now, const double* next) {
  charts_ = now != nullptr;
  if (!charts_) return;
  q_now_ = Eigen::Map<const VectorXd>(now, nq_);
  v_now_ = Eigen::Map<const VectorXd>(now + nq_, nv_);
  q_next_ = Eigen::Map<const VectorXd>(next, nq_);
  v_next_ = Eigen::Map<const VectorXd>(next + nq_, nv_);
}

void StepMap::start(const double* x, const double* u, bool derivatives) {
  if (charts_) {
    w_ = Eigen::Map<const VectorXd>(x, nv_);
    robot_.integrate(q_now_, w_, nodes_[0].q);
    if (derivatives) robot_.integrate_jacobians(q_now_, w_, nullptr, J_now_);
    nodes_[0].v = v_now_ + Eigen::Map<const VectorXd>(x + nv_, nv_);
  } else {
    nodes_[0].q = Eigen::Map<const VectorXd>(x, nq_);
    nodes_[0].v = Eigen::Map<const VectorXd>(x + nq_, nv_);
  }
  for (int i = 0; i < nu_; ++i) tau_[actuated_[i]] = u[i];
}

void StepMap::evaluate(bool derivatives) {
  for (int n = 0; n < static_cast<int>(nodes_.size()); ++n) {
    Node& now = nodes_[n];
    if (n > 0) {
      const Scheme::Node& rule = scheme_.nodes[n - 1];
      now.v = nodes_[0].v;
      for (std::size_t j = 0; j < rule.acceleration.size(); ++j)
        if (rule.acceleration[j] != 0.0) now.v += h_ * rule.acceleration[j] * nodes_[j].a;
      now.w.setZero();
      for (std::size_t j = 0; j < rule.velocity.size(); ++j)
        if (rule.velocity[j] != 0.0) now.w += h_ * rule.velocity[j] * nodes_[j].v;
      robot_.integrate(nodes_[rule.from].q, now.w, now.q);
      if (derivatives && !robot_.vector_space())
        robot_.integrate_jacobians(nodes_[rule.from].q, now.w, &now.J_q, now.J_w);
    }
    if (n >= scheme_.stages) continue;
    if (derivatives)
      robot_.acceleration(now.q, now.v, tau_, now.a, now.a_q, now.a_v, now.a_tau);
    else
      robot_.acceleration(now.q, now.v, tau_, now.a);
  }
}

void StepMap::advance() {
  nodes_.front().q.swap(nodes_.back().q);
  nodes_.front().v.swap(nodes_.back().v);
}

void StepMap::finish(double* x_next) {
  if (charts_) {
    robot_.difference(q_next_, nodes_[0].q, w_);
    Eigen::Map<VectorXd>(x_next, nv_) = w_;
    Eigen::Map<VectorXd>(x_next + nv_, nv_) = nodes_[0].v - v_next_;
  } else {
    Eigen::Map<VectorXd>(x_next, nq_) = nodes_[0].q;
    Eigen::Map<VectorXd>(x_next + nq_, nv_) = nodes_[0].v;
  }
}

void StepMap::value(const double* x, const double* u, double* x_next) {
  start(x, u, false);
  for (int k = 0; k < substeps_; ++k) {
    evaluate(false);
    advance();
  }
  finish(x_next);
}

void StepMap::start_tangents(int parameters) {
  const int columns = 2 * nv_ + nu_ + parameters;
  Node& first = nodes_.front();
  first.D_q.setZero(nv_, columns);
  first.D_v.setZero(nv_, columns);
  if (charts_)
    first.D_q.leftCols(nv_) = J_now_;
  else
    first.D_q.leftCols(nv_).setIdentity();
  first.D_v.middleCols(nv_, nv_).setIdentity();
}

void StepMap::tangents(int parameters, const MatrixXd* B) {
  const Eigen::Index columns = nodes_[0].D_q.cols();
  for (int n = 0; n < static_cast<int>(nodes_.size()); ++n) {
    Node& now = nodes_[n];
    if (n > 0) {
      const Scheme::Node& rule = scheme_.nodes[n - 1];
      now.D_v = nodes_[0].D_v;
      for (std::size_t j = 0; j < rule.acceleration.size(); ++j)
        if (rule.acceleration[j] != 0.0) now.D_v += h_ * rule.acceleration[j] * nodes_[j].D_a;
      now.D_w.setZero(nv_, columns);
      for (std::size_t j = 0; j < rule.velocity.size(); ++j)
        if (rule.velocity[j] != 0.0) now.D_w += h_ * rule.velocity[j] * nodes_[j].D_v;
      if (robot_.vector_space()) {
        now.D_q = nodes_[rule.from].D_q + now.D_w;
      } else {
        now.D_q.noalias() = now.J_q * nodes_[rule.from].D_q;
        now.D_q.noalias() += now.J_w * now.D_w;
      }
    }
    if (n >= scheme_.stages) continue;
    now.D_a.noalias() = now.a_q * now.D_q;
    now.D_a.noalias() += now.a_v * now.D_v;
    if (B != nullptr)
      now.D_a.noalias() += now.a_tau * torques_;
    else
      for (int i = 0; i < nu_; ++i) now.D_a.col(2 * nv_ + i) += now.a_tau.col(actuated_[i]);
    if (parameters > 0) {
      robot_.parameter_jacobian(now.q, now.v, now.a, now.a_tau, a_p_);
      now.D_a.rightCols(parameters) += a_p_;
    }
  }
}

void StepMap::tangent(const double* x, const double* u, double* x_next, double* A, double* B, double* P) {
  const int n_par = P != nullptr ? robot_.n_par() : 0;
  start(x, u, true);
  start_tangents(n_par);
  for (int k = 0; k < substeps_; ++k) {
    evaluate(true);
    tangents(n_par);
    advance();
    nodes_.front().D_q.swap(nodes_.back().D_q);
    nodes_.front().D_v.swap(nodes_.back().D_v);
  }
  if (charts_) {
    robot_.difference_jacobian(q_next_, nodes_[0].q, J_next_);
    nodes_[0].D_q = (J_next_ * nodes_[0].D_q).eval();
  }
  finish(x_next);
  Eigen::Map<RowMajor> to_A(A, 2 * nv_, 2 * nv_), to_B(B, 2 * nv_, nu_);
  to_A << nodes_[0].D_q.leftCols(2 * nv_), nodes_[0].D_v.leftCols(2 * nv_);
  if (nu_ > 0) to_B << nodes_[0].D_q.middleCols(2 * nv_, nu_), nodes_[0].D_v.middleCols(2 * nv_, nu_);
  if (n_par > 0)
    Eigen::Map<RowMajor>(P, 2 * nv_, n_par) << nodes_[0].D_q.rightCols(n_par), nodes_[0].D_v.rightCols(n_par);
}

void StepMap::record(const double* x, const double* u, double* x_next) {
  start(x, u, true);
  for (std::vector<Moment>& moments : tape_) {
    evaluate(false);
    for (std::size_t n = 0; n < nodes_.size(); ++n) {
      moments[n].q = nodes_[n].q;
      moments[n].v = nodes_[n].v;
      moments[n].w = nodes_[n].w;
      moments[n].a = nodes_[n].a;
    }
    advance();
  }
  if (x_next != nullptr) finish(x_next);
}

}  // namespace qp_control
