// The gradient of one robot's QP: from the problem's matrices back to rows, from rows to frames, momentum and dynamics,
// and from these to the state.
#include <Eigen/Geometry>

#include "whole_body_rows.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::Vector3d;
using Eigen::VectorXd;

void WholeBodyRows::add_weight(const Term& term, int r, double by_weight) {
  by_numbers_[term.weight + r] += by_weight * (term.activation < 0 ? 1.0 : numbers_[term.activation]);
  if (term.activation >= 0) by_numbers_[term.activation] += by_weight * numbers_[term.weight + r];
}

// Of w/2 |J x + c|^2 in H and g: <by H, w J'J> + <by g, w J'c>.
void WholeBodyRows::cost_adjoint(const Term& term, const Residual& r, const WholeBodyMatrices& by) {
  const int rows = static_cast<int>(term.rows.size());
  by_c_.setZero(rows);
  switch (term.kind) {
    case TermKind::posture:
      for (int k = 0; k < rows; ++k) {
        const int i = term.rows[k];
        add_weight(term, k, by.H(i, i) + by.g[i] * r.c[k]);
        by_c_[k] = weight(term, k) * by.g[i];
      }
      return;
    case TermKind::selection:
      for (int k = 0; k < rows; ++k) {
        double sum = 0.0, along = 0.0;
        for (int p = 0; p < term.points; ++p) {
          const int i = term.first + term.rows[k] + 3 * p;
          along += by.g[i];
          for (int s = 0; s < term.points; ++s) sum += by.H(i, term.first + term.rows[k] + 3 * s);
        }
        add_weight(term, k, sum + along * r.c[k]);
        by_c_[k] = weight(term, k) * along;
      }
      return;
    case TermKind::torque: {
      MatrixXd J(rows, sizes_.n);
      for (int k = 0; k < rows; ++k) J.row(k) = D_.row(settings_.actuated[k]);
      const MatrixXd JG = J * by_H_;
      const VectorXd along = J * by.g;
      for (int k = 0; k < rows; ++k) {
        const double w = weight(term, k);
        add_weight(term, k, 0.5 * JG.row(k).dot(J.row(k)) + along[k] * r.c[k]);
        by_c_[k] = w * along[k];
        by_D_.row(settings_.actuated[k]) += w * (JG.row(k) + r.c[k] * by.g.transpose());
      }
      return;
    }
    default: {
      const MatrixXd JG = r.J * by_H_.topLeftCorner(nv_, nv_);
      const VectorXd along = r.J * by.g.head(nv_);
      by_J_.resize(rows, nv_);
      for (int k = 0; k < rows; ++k) {
        const double w = weight(term, k);
        add_weight(term, k, 0.5 * JG.row(k).dot(r.J.row(k)) + along[k] * r.c[k]);
        by_c_[k] = w * along[k];
        by_J_.row(k) = w * (JG.row(k) + r.c[k] * by.g.head(nv_).transpose());
      }
    }
  }
}

void WholeBodyRows::constraint_adjoint(const Term& term, int row, const WholeBodyMatrices& by) {
  const int rows = static_cast<int>(term.rows.size());
  by_c_ = -by.b.segment(row, rows);
  by_J_ = by.A.block(row, 0, rows, nv_);
}

void WholeBodyRows::residual_adjoint(const Term& term, const Residual& r) {
  const int rows = static_cast<int>(term.rows.size());
  if (term.kind == TermKind::frame) {
    frame_residual_adjoint(term, r);
    return;
  }
  if (term.kind == TermKind::torque || term.kind == TermKind::selection) {
    by_numbers(term.reference, rows) -= by_c_;
    if (term.kind == TermKind::torque)
      for (int k = 0; k < rows; ++k) by_h_[settings_.actuated[k]] += by_c_[k];
    return;
  }
  // c = drift - stiffness error - damping missing
  const VectorXd by_missing = -numbers(term.damping, rows).cwiseProduct(by_c_);
  VectorXd by_error = VectorXd::Zero(rows);
  by_numbers(term.damping, rows) -= by_c_.cwiseProduct(r.missing);
  if (term.stiffness >= 0) {
    by_error = -numbers(term.stiffness, rows).cwiseProduct(by_c_);
    by_numbers(term.stiffness, rows) -= by_c_.cwiseProduct(r.error);
  }
  for (int k = 0; k < rows; ++k) by_numbers_[term.acceleration + term.rows[k]] -= by_c_[k];

  if (term.kind == TermKind::posture) {
    VectorXd full = VectorXd::Zero(nv_);
    for (int k = 0; k < rows; ++k) {
      by_numbers_[term.velocity + term.rows[k]] += by_missing[k];
      by_v_[term.rows[k]] -= by_missing[k];
      full[term.rows[k]] += by_error[k];
    }
    // error = reference (-) q, minus q (-) reference
    const VectorXd reference = numbers(term.reference, nq_);
    MatrixXd J = MatrixXd::Zero(nv_, nv_), T;
    robot_.difference_jacobian(reference, q_, J);
    by_q_ -= J.transpose() * full;
    robot_.difference_jacobian(q_, reference, J);
    full = (J.transpose() * full).eval();
    if (robot_.vector_space()) {
      by_numbers(term.reference, nq_) += full;
    } else {
      T.setZero(nq_, nv_);
      robot_.tangent_map(reference, T);
      by_numbers(term.reference, nq_) += T * (T.transpose() * T).ldlt().solve(full);
    }
    return;
  }
  const bool whole = term.kind == TermKind::centre_of_mass;
  for (int k = 0; k < rows; ++k) {
    const int i = term.rows[k];
    if (whole) {
      by_numbers_[term.reference + i] += by_error[k];
      by_numbers_[term.velocity + i] += by_missing[k];
      by_centroid_.position[i] -= by_error[k];
      by_centroid_.momentum[i] -= by_missing[k] / mass_;
      by_centroid_.rate[i] += by_c_[k] / mass_;
      by_A_G_.row(i) += by_J_.row(k) / mass_;
      by_mass_ += (by_missing[k] * centroid_.momentum[i] - by_c_[k] * centroid_.rate[i]) / (mass_ * mass_);
      by_mass_ -= by_J_.row(k).dot(r.J.row(k)) / mass_;
    } else {
      by_numbers_[term.reference + i] += by_missing[k];
      by_centroid_.momentum[3 + i] -= by_missing[k];
      by_centroid_.rate[3 + i] += by_c_[k];
      by_A_G_.row(3 + i) += by_J_.row(k);
    }
  }
}

// From frames, the centroid, D and h to q, v and the parameters.
void WholeBodyRows::dynamics_adjoint(double* by_parameters) {
  int column = nv_;
  for (const Support& support : settings_.supports) {
    Frame& f = frame(support.frame);
    for (const Vector3d& point : support.points) {
      // -(J_linear + J_angular x r)
      const Vector3d r = f.at.rotation * point;
      Vector3d by_r = Vector3d::Zero();
      for (int i = 0; i < nv_; ++i) {
        const Vector3d g = -by_D_.row(i).segment<3>(column).transpose(), turned = f.J.col(i).tail<3>();
        f.by_J.col(i).head<3>() += g;
        f.by_J.col(i).tail<3>() += r.cross(g);
        by_r += g.cross(turned);
      }
      f.by.rotation += by_r * point.transpose();
      column += 3;
    }
  }
  by_a_.setZero(nv_);
  // The tree still has the motion at q and v without accelerations.
  for (const Frame& f : frames_) {
    robot_.frame_adjoint(f.index, true, f.by, by_q_, by_v_, by_a_);
    robot_.frame_jacobian_adjoint(f.index, true, f.by_J, by_q_);
  }

  MatrixXd by_momentum;
  if (uses_centroid_) {
    // About the world's origin instead of the centre of mass.
    by_momentum = by_A_G_;
    for (int i = 0; i < nv_; ++i) {
      const Vector3d linear = A_G_.col(i).head<3>(), g = by_A_G_.col(i).tail<3>();
      by_momentum.col(i).head<3>() -= g.cross(centroid_.position);
      by_centroid_.position -= linear.cross(g);
    }
  }
  robot_.inertia_adjoint(q_, by_D_.leftCols(nv_), by_momentum, by_q_, by_parameters);
  VectorXd g_q(nv_), g_v(nv_), g_a(nv_);
  robot_.inverse_dynamics_adjoint(q_, v_, zero_, by_h_, g_q, g_v, g_a);
  by_q_ += g_q;
  by_v_ += g_v;
  if (by_parameters != nullptr) {
    by_h_ = -by_h_;
    robot_.parameter_adjoint(q_, v_, zero_, by_h_, by_parameters);
  }
  if (!uses_centroid_) return;
  robot_.centroid_adjoint(q_, v_, zero_, by_centroid_, g_q, g_v, g_a, by_parameters);
  by_q_ += g_q;
  by_v_ += g_v;
  if (by_parameters != nullptr)
    for (int b = 0; b < robot_.bodies(); ++b) by_parameters[10 * b] += by_mass_;
}

void WholeBodyRows::adjoint(const WholeBodyMatrices& by, double* by_parameters) {
  by_numbers_.setZero(settings_.numbers);
  for (VectorXd* a : {&by_q_, &by_v_, &by_h_}) a->setZero(nv_);
  by_H_ = by.H + by.H.transpose();
  by_D_.setZero(nv_, sizes_.n);
  by_A_G_.setZero(6, nv_);
  by_mass_ = 0.0;
  by_centroid_.position.setZero();
  by_centroid_.momentum.setZero();
  by_centroid_.rate.setZero();
  for (Frame& f : frames_) {
    f.by.position.setZero();
    f.by.rotation.setZero();
    f.by.velocity.setZero();
    f.by.acceleration.setZero();
    f.by_J.setZero(6, nv_);
  }

  int row = 0;
  for (int i : undriven_) {
    by_D_.row(i) += by.A.row(row);
    by_h_[i] -= by.b[row++];
  }
  for (int k = 0; k < nu(); ++k) {
    by_D_.row(settings_.actuated[k]) += by.T.row(k);
    by_h_[settings_.actuated[k]] += by.t[k];
  }
  for (std::size_t k = 0; k < settings_.terms.size(); ++k) {
    const Term& term = settings_.terms[k];
    if (term.hard) {
      constraint_adjoint(term, row, by);
      row += static_cast<int>(term.rows.size());
    } else {
      cost_adjoint(term, residuals_[k], by);
    }
    residual_adjoint(term, residuals_[k]);
  }
  row = 0;
  if (settings_.torque_upper >= 0) {
    for (int k = 0; k < nu(); ++k) {
      by_D_.row(settings_.actuated[k]) += by.C.row(k);
      by_h_[settings_.actuated[k]] -= by.l[k] + by.u[k];
    }
    by_numbers(settings_.torque_lower, nu()) += by.l.head(nu());
    by_numbers(settings_.torque_upper, nu()) += by.u.head(nu());
    row = nu();
  }
  for (const Support& support : settings_.supports) {
    forces_adjoint(support, row, by);
    row += static_cast<int>(support.points.size() * support.directions.size()) + 1;
  }
  for (const Barrier& b : settings_.barriers) barrier_adjoint(b, row++, by);
  for (const JointBounds& b : settings_.bounds) bounds_adjoint(b, by);
  dynamics_adjoint(by_parameters);
}

}  // namespace qp_control
