// The adjoint of a control period, and how it changes along directions: second derivatives.
#include "step.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;

void StepMap::adjoint(const VectorXd& lambda, VectorXd& g_z, double* g_p) {
  pull_back(lambda, g_z, g_p, nullptr, nullptr, false);
  if (charts_) g_z.head(nv_) = J_now_.transpose() * nodes_[0].l_q;
}

// q (+) w moves with q by J_q; and (q (+) d) (-) q, by -J_q of that d, turned by the logarithm's Jacobian at the end.
void StepMap::reference_adjoint(const double* x, const VectorXd& lambda, VectorXd& g_now, VectorXd& g_next) {
  g_now.resize(2 * nv_);
  g_next.resize(2 * nv_);
  w_ = Eigen::Map<const VectorXd>(x, nv_);
  robot_.integrate_jacobians(q_now_, w_, &J_reference_, J_now_);
  g_now << J_reference_.transpose() * nodes_[0].l_q, nodes_[0].l_v;
  robot_.difference(q_next_, q_end_, w_);
  robot_.integrate_jacobians(q_next_, w_, &J_reference_, N_);
  g_next << -J_reference_.transpose() * (J_next_.transpose() * lambda.head(nv_)), -lambda.tail(nv_);
}

void StepMap::curvature(const double* x, const double* u, const VectorXd& lambda, const MatrixXd& B, MatrixXd& out,
                        double* g_p, bool again) {
  if (!again) start(x, u, true);
  Node& first = nodes_.front();
  if (charts_)
    first.D_q.noalias() = J_now_ * B.topRows(nv_);
  else
    first.D_q = B.topRows(nv_);
  first.D_v = B.middleRows(nv_, nv_);
  torques_.setZero(nv_, B.cols());
  for (int i = 0; i < nu_; ++i) torques_.row(actuated_[i]) = B.row(2 * nv_ + i);
  pull_back(lambda, gradient_, g_p, &B, &out, again && substeps_ == 1);
  if (!charts_) return;
  w_ = Eigen::Map<const VectorXd>(x, nv_);
  group_.curvature(w_, first.l_q, N_);
  out.topRows(nv_).noalias() = J_now_.transpose() * first.L_q;
  out.topRows(nv_).noalias() += N_ * B.topRows(nv_);
}

// See reference_adjoint and configuration_group.hpp: with d and e for the changes of q_next and q,
// lambda' ((q (+) e) (-) (q_next (+) d)) has the terms -1/2 l' [J_q d, e] + (J_next J_q d)' N J_next e in both.
void StepMap::reference_curvature(const double* x, const MatrixXd& B, VectorXd& g_now, VectorXd& g_next) {
  const Node& first = nodes_.front();
  g_now.resize(2 * nv_);
  w_ = Eigen::Map<const VectorXd>(x, nv_);
  robot_.integrate_jacobians(q_now_, w_, &J_reference_, J_now_);
  group_.bracket(first.l_q, N_);
  w_ = first.L_q.col(0);
  w_.noalias() += 0.5 * N_ * (J_now_ * B.col(0).head(nv_));
  g_now << J_reference_.transpose() * w_, first.L_v.col(0);
  robot_.difference(q_next_, q_end_, w_);
  robot_.integrate_jacobians(q_next_, w_, &J_reference_, N_);
  group_.curvature(w_, l_end_, N_);
  moved_.noalias() = J_next_.transpose() * (N_ * (J_next_ * D_end_));
  group_.bracket(l_end_, N_);
  moved_.noalias() -= 0.5 * N_ * D_end_;
  g_next.setZero(2 * nv_);
  g_next.head(nv_).noalias() = J_reference_.transpose() * moved_.col(0);
}

void StepMap::restore(int k) {
  for (std::size_t n = 0; n < nodes_.size(); ++n) {
    Node& now = nodes_[n];
    now.q = tape_[k][n].q;
    now.v = tape_[k][n].v;
    now.w = tape_[k][n].w;
    now.a = tape_[k][n].a;
  }
}

void StepMap::pull_back(const VectorXd& lambda, VectorXd& g_z, double* g_p, const MatrixXd* B, MatrixXd* H,
                        bool evaluated) {
  for (int k = 0; H != nullptr && k < substeps_; ++k) {
    starts_.col(k) << nodes_[0].q, nodes_[0].v;
    D_starts_[k].resize(2 * nv_, nodes_[0].D_q.cols());
    D_starts_[k] << nodes_[0].D_q, nodes_[0].D_v;
    if (k + 1 == substeps_) break;
    evaluate(true);
    tangents(0, B);
    advance();
    nodes_.front().D_q.swap(nodes_.back().D_q);
    nodes_.front().D_v.swap(nodes_.back().D_v);
  }
  Node& end = nodes_.back();
  end.l_q = lambda.head(nv_);
  end.l_v = lambda.tail(nv_);
  g_z.setZero(2 * nv_ + nu_);
  const Eigen::Index columns = H != nullptr ? B->cols() : 0;
  if (H != nullptr) {
    H->setZero(2 * nv_ + nu_, columns);
    end.L_q.setZero(nv_, columns);
    end.L_v.setZero(nv_, columns);
  }
  for (int k = substeps_ - 1; k >= 0; --k) {
    if (H != nullptr) {
      nodes_[0].q = starts_.col(k).head(nq_);
      nodes_[0].v = starts_.col(k).tail(nv_);
      if (!evaluated) evaluate(true);
      nodes_[0].D_q = D_starts_[k].topRows(nv_);
      nodes_[0].D_v = D_starts_[k].bottomRows(nv_);
      tangents(0, B);
    } else {
      restore(k);
    }
    if (charts_ && k + 1 == substeps_) {
      if (!evaluated) robot_.difference_jacobian(q_next_, end.q, J_next_);
      end.l_q.noalias() = J_next_.transpose() * lambda.head(nv_);
      q_end_ = end.q;
      if (H != nullptr) {
        // w = q (-) q_next solves q_next (+) w = q, whose second derivative is -J^-1 J'(w)[y] y, y = J^-1 dq.
        robot_.difference(q_next_, end.q, w_);
        group_.curvature(w_, end.l_q, N_);
        l_end_ = end.l_q;
        D_end_ = end.D_q;
        moved_.noalias() = J_next_ * end.D_q;
        turned_.noalias() = N_ * moved_;
        end.L_q.noalias() = -J_next_.transpose() * turned_;
      }
    }
    for (std::size_t n = 0; n + 1 < nodes_.size(); ++n) {
      for (VectorXd* l : {&nodes_[n].l_q, &nodes_[n].l_v, &nodes_[n].l_a}) l->setZero();
      if (H != nullptr)
        for (MatrixXd* L : {&nodes_[n].L_q, &nodes_[n].L_v, &nodes_[n].L_a}) L->setZero(nv_, columns);
    }
    for (int n = static_cast<int>(nodes_.size()) - 1; n >= 0; --n) {
      Node& now = nodes_[n];
      if (n < scheme_.stages) {
        if (H != nullptr) {  // the derivatives are there
          now.l_q.noalias() += now.a_q.transpose() * now.l_a;
          now.l_v.noalias() += now.a_v.transpose() * now.l_a;
          w_.noalias() = now.a_tau * now.l_a;
        } else {
          robot_.acceleration_adjoint(now.q, now.v, now.a, now.l_a, w_, by_q_, by_v_);
          now.l_q += by_q_;
          now.l_v += by_v_;
        }
        for (int i = 0; i < nu_; ++i) g_z[2 * nv_ + i] += w_[actuated_[i]];
        if (H != nullptr)
          change_acceleration(now, g_p, *H);
        else if (g_p != nullptr)
          robot_.parameter_adjoint(now.q, now.v, now.a, w_, g_p);
      }
      if (n == 0) break;
      const Scheme::Node& rule = scheme_.nodes[n - 1];
      Node& from = nodes_[rule.from];
      if (H != nullptr) {
        change_displacement(from, now);
        for (std::size_t j = 0; j < rule.velocity.size(); ++j)
          if (rule.velocity[j] != 0.0) nodes_[j].L_v += h_ * rule.velocity[j] * turned_;
        nodes_[0].L_v += now.L_v;
        for (std::size_t j = 0; j < rule.acceleration.size(); ++j)
          if (rule.acceleration[j] != 0.0) nodes_[j].L_a += h_ * rule.acceleration[j] * now.L_v;
      }
      if (robot_.vector_space()) {
        w_ = now.l_q;
        from.l_q += now.l_q;
      } else if (H != nullptr) {
        w_.noalias() = now.J_w.transpose() * now.l_q;
        from.l_q.noalias() += now.J_q.transpose() * now.l_q;
      } else {
        robot_.integrate_adjoint(from.q, now.w, now.l_q, by_q_, w_);
        from.l_q += by_q_;
      }
      for (std::size_t j = 0; j < rule.velocity.size(); ++j)
        if (rule.velocity[j] != 0.0) nodes_[j].l_v += h_ * rule.velocity[j] * w_;
      nodes_[0].l_v += now.l_v;
      for (std::size_t j = 0; j < rule.acceleration.size(); ++j)
        if (rule.acceleration[j] != 0.0) nodes_[j].l_a += h_ * rule.acceleration[j] * now.l_v;
    }
    end.l_q = nodes_[0].l_q;
    end.l_v = nodes_[0].l_v;
    if (H != nullptr) {
      end.L_q = nodes_[0].L_q;
      end.L_v = nodes_[0].L_v;
    }
  }
  g_z.head(nv_) = end.l_q;
  g_z.segment(nv_, nv_) = end.l_v;
  if (H == nullptr) return;
  H->topRows(nv_) = end.L_q;
  H->middleRows(nv_, nv_) = end.L_v;
}

// From tau(q, v, a(q, v, tau)) = tau, twice differentiated: l' a'' = -mu' tau''[(dq, dv, da)], mu = M^-1 l (in w_).
void StepMap::change_acceleration(Node& node, double* g_p, MatrixXd& H) {
  robot_.inverse_dynamics_hessian(node.q, node.v, node.a, w_, second_);
  node.L_a.noalias() -= second_.qa.transpose() * node.D_q;
  node.L_q.noalias() += node.a_q.transpose() * node.L_a;
  node.L_q.noalias() -= second_.qq * node.D_q;
  node.L_q.noalias() -= second_.qv * node.D_v;
  node.L_q.noalias() -= second_.qa * node.D_a;
  node.L_v.noalias() += node.a_v.transpose() * node.L_a;
  node.L_v.noalias() -= second_.qv.transpose() * node.D_q;
  node.L_v.noalias() -= second_.vv * node.D_v;
  change_.noalias() = node.a_tau * node.L_a;  // of mu
  for (int i = 0; i < nu_; ++i) H.row(2 * nv_ + i) += change_.row(actuated_[i]);
  if (g_p == nullptr) return;
  const StateChange change{node.D_q.col(0), node.D_v.col(0), node.D_a.col(0)};
  w_change_ = change_.col(0);
  robot_.parameter_adjoint_change(node.q, node.v, node.a, w_, change, w_change_, g_p);
}

// See configuration_group.hpp. Leaves the change for w in turned_.
void StepMap::change_displacement(Node& from, Node& node) {
  if (robot_.vector_space()) {
    turned_ = node.L_q;
    from.L_q += node.L_q;
    return;
  }
  group_.bracket(node.l_q, N_);
  change_.noalias() = node.J_w * node.D_w;
  moved_ = node.L_q;
  moved_.noalias() += 0.5 * N_ * change_;
  from.L_q.noalias() += node.J_q.transpose() * moved_;
  change_.noalias() = node.J_q * from.D_q;
  moved_ = node.L_q;
  moved_.noalias() += 0.5 * N_.transpose() * change_;
  turned_.noalias() = node.J_w.transpose() * moved_;
  group_.curvature(node.w, node.l_q, N_);
  turned_.noalias() += N_ * node.D_w;
}

}  // namespace qp_control
