#include <pinocchio/algorithm/aba-derivatives.hpp>
#include <pinocchio/algorithm/aba.hpp>
#include <pinocchio/algorithm/cholesky.hpp>
#include <pinocchio/algorithm/crba.hpp>

#include "evaluator_state.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using View = Eigen::Ref<const VectorXd>;

Evaluator::Evaluator(const pinocchio::Model& model) : implementation_(new Implementation(model)) {}
Evaluator::~Evaluator() = default;

int Evaluator::nq() const { return implementation_->model.nq; }
int Evaluator::nv() const { return implementation_->model.nv; }
int Evaluator::bodies() const { return implementation_->model.njoints - 1; }
int Evaluator::n_par() const { return 10 * bodies() + nv(); }

std::vector<int> Evaluator::velocities_before() const {
  const auto& model = implementation_->model;
  std::vector<int> before(nv());
  for (int b = 1; b < model.njoints; ++b) {
    const auto parent = model.parents[b];
    const int first = model.idx_vs[b];
    for (int i = first; i < first + model.nvs[b]; ++i)
      before[i] = i > first ? i - 1 : parent > 0 ? model.idx_vs[parent] + model.nvs[parent] - 1 : -1;
  }
  return before;
}

VectorXd Evaluator::nominal_parameters() const {
  const auto& s = *implementation_;
  VectorXd p(n_par());
  for (int i = 0; i < bodies(); ++i) p.segment<10>(10 * i) = s.model.inertias[i + 1].toDynamicParameters();
  p.tail(nv()) = s.damping;
  return p;
}

void Evaluator::set_parameters(const double* parameters) {
  auto& s = *implementation_;
  for (int i = 0; i < bodies(); ++i) {
    const Eigen::Map<const Eigen::Matrix<double, 10, 1>> p(parameters + 10 * i);
    const double m = p[0];
    // A body without mass has no centre of mass; its moments of inertia are kept.
    const Eigen::Vector3d c = m != 0.0 ? Eigen::Vector3d(p.segment<3>(1) / m) : Eigen::Vector3d(p.segment<3>(1));
    const pinocchio::Symmetric3 about_origin(Eigen::Matrix<double, 6, 1>(p.tail<6>()));
    s.model.inertias[i + 1] = pinocchio::Inertia(m, c, about_origin + pinocchio::Symmetric3::AlphaSkewSquare(m, c));
  }
  s.damping = Eigen::Map<const VectorXd>(parameters + 10 * bodies(), nv());
}

void Evaluator::acceleration(const VectorXd& q, const VectorXd& v, const VectorXd& tau, VectorXd& a) {
  auto& s = *implementation_;
  s.damped = tau - s.damping.cwiseProduct(v);
  a = pinocchio::aba(s.model, s.data, View(q), View(v), View(s.damped));
}

void Evaluator::acceleration(const VectorXd& q, const VectorXd& v, const VectorXd& tau, VectorXd& a, MatrixXd& a_q,
                             MatrixXd& a_v, MatrixXd& a_tau) {
  auto& s = *implementation_;
  s.damped = tau - s.damping.cwiseProduct(v);
  pinocchio::computeABADerivatives(s.model, s.data, q, v, s.damped, a_q, a_v, a_tau);
  a = s.data.ddq;
  a_v.noalias() -= a_tau * s.damping.asDiagonal();
}

// From tau(q, v, a(q, v, tau)) = tau: g'a' = -w'tau'. Linear in the number of bodies, which the derivatives themselves
// are not.
void Evaluator::acceleration_adjoint(const VectorXd& q, const VectorXd& v, const VectorXd& a, const VectorXd& g,
                                     VectorXd& w, VectorXd& g_q, VectorXd& g_v) {
  auto& s = *implementation_;
  w = g;
  pinocchio::crba(s.model, s.data, View(q));
  pinocchio::cholesky::decompose(s.model, s.data);
  pinocchio::cholesky::solve(s.model, s.data, w);
  s.opposite = -w;
  inverse_dynamics_adjoint(q, v, a, s.opposite, g_q, g_v, s.damped);
}

}  // namespace qp_control
