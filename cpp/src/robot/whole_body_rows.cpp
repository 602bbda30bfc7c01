#include "whole_body_rows.hpp"

#include <Eigen/Geometry>
#include <algorithm>
#include <limits>

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::Vector3d;
using Eigen::VectorXd;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

}  // namespace

void WholeBodyMatrices::resize(WholeBodySizes s, int nu) {
  H.setZero(s.n, s.n);
  A.setZero(s.n_eq, s.n);
  C.setZero(s.n_in, s.n);
  T.setZero(nu, s.n);
  for (VectorXd* a : {&g, &lb, &ub}) a->setZero(s.n);
  b.setZero(s.n_eq);
  for (VectorXd* a : {&l, &u}) a->setZero(s.n_in);
  t.setZero(nu);
}

WholeBodyRows::WholeBodyRows(Evaluator& robot, const WholeBodySettings& settings)
    : robot_(robot), settings_(settings), nq_(robot.nq()), nv_(robot.nv()) {
  for (int i = 0; i < nv_; ++i)
    if (std::find(settings.actuated.begin(), settings.actuated.end(), i) == settings.actuated.end())
      undriven_.push_back(i);
  sizes_ = {nv_, static_cast<int>(undriven_.size()), settings.torque_upper < 0 ? 0 : nu()};
  for (const Support& support : settings.supports) {
    sizes_.n += 3 * static_cast<int>(support.points.size());
    sizes_.n_in += static_cast<int>(support.points.size() * support.directions.size()) + 1;
    frame(support.frame);
  }
  sizes_.n_in += static_cast<int>(settings.barriers.size());
  for (const Barrier& barrier : settings.barriers) {
    frame(barrier.frame);
    frame(barrier.other);
  }
  for (const Term& term : settings.terms) {
    if (term.hard) sizes_.n_eq += static_cast<int>(term.rows.size());
    if (term.kind == TermKind::frame) {
      frame(term.frame);
      frame(term.base);
    }
    uses_centroid_ |= term.kind == TermKind::centre_of_mass || term.kind == TermKind::angular_momentum;
  }
  std::size_t most_rows = 0;
  for (const Term& term : settings.terms) {
    const std::size_t rows = term.rows.size();
    const bool dense = term.kind == TermKind::frame || term.kind == TermKind::centre_of_mass ||
                       term.kind == TermKind::angular_momentum;
    const VectorXd zero = VectorXd::Zero(rows);
    residuals_.push_back({MatrixXd::Zero(dense ? rows : 0, nv_), zero, zero, zero});
    most_rows = std::max(most_rows, rows);
  }
  for (VectorXd* a : {&zero_, &difference_, &h_}) a->setZero(nv_);
  for (VectorXd* a : {&q_, &reference_}) a->setZero(nq_);
  weighted_.setZero(most_rows, sizes_.n);
  frame_J_.setZero(6, nv_);
}

WholeBodyRows::Frame& WholeBodyRows::frame(int index) {
  for (Frame& known : frames_)
    if (known.index == index) return known;
  frames_.emplace_back();
  frames_.back().index = index;
  return frames_.back();
}

double WholeBodyRows::weight(const Term& term, int r) const {
  return numbers_[term.weight + r] * (term.activation < 0 ? 1.0 : numbers_[term.activation]);
}

// D x + d: the forces of the drives, with d = h.
void WholeBodyRows::dynamics() {
  robot_.inverse_dynamics(q_, v_, zero_, h_);
  robot_.mass_matrix(q_, M_);
  if (uses_centroid_) {
    centroid_ = robot_.centroid(q_, v_, zero_);
    robot_.momentum_matrix(centroid_.position, A_G_);
    mass_ = robot_.mass();
  } else {
    robot_.place(q_, v_, zero_);
  }
  for (Frame& f : frames_) {
    f.at = robot_.frame(f.index, true);
    robot_.frame_jacobian(f.index, true, f.J);
  }
  D_.resize(nv_, sizes_.n);
  D_.leftCols(nv_) = M_;
  int column = nv_;
  for (const Support& support : settings_.supports) {
    const Frame& f = frame(support.frame);
    for (const Vector3d& point : support.points) {
      const Vector3d r = f.at.rotation * point;
      for (int i = 0; i < nv_; ++i)
        D_.row(i).segment<3>(column) =
            -(Vector3d(f.J.col(i).head<3>()) + Vector3d(f.J.col(i).tail<3>()).cross(r)).transpose();
      column += 3;
    }
  }
}

void WholeBodyRows::residual(const Term& term, Residual& out) {
  const int rows = static_cast<int>(term.rows.size());
  switch (term.kind) {
    case TermKind::frame:
      frame_residual(term, out);
      break;
    case TermKind::torque:
      for (int r = 0; r < rows; ++r) out.c[r] = h_[settings_.actuated[r]] - numbers_[term.reference + r];
      return;
    case TermKind::selection:
      out.c = -numbers(term.reference, rows);
      return;
    case TermKind::centre_of_mass:
      for (int r = 0; r < rows; ++r) {
        const int i = term.rows[r];
        out.J.row(r) = A_G_.row(i) / mass_;
        out.error[r] = numbers_[term.reference + i] - centroid_.position[i];
        out.missing[r] = numbers_[term.velocity + i] - centroid_.momentum[i] / mass_;
        out.c[r] = centroid_.rate[i] / mass_ - numbers_[term.acceleration + i];
      }
      break;
    case TermKind::angular_momentum:
      for (int r = 0; r < rows; ++r) {
        const int i = term.rows[r];
        out.J.row(r) = A_G_.row(3 + i);
        out.missing[r] = numbers_[term.reference + i] - centroid_.momentum[3 + i];
        out.c[r] = centroid_.rate[3 + i] - numbers_[term.acceleration + i];
      }
      break;
    case TermKind::posture:
      reference_ = numbers(term.reference, nq_);
      robot_.difference(q_, reference_, difference_);
      for (int r = 0; r < rows; ++r) {
        const int i = term.rows[r];
        out.error[r] = difference_[i];
        out.missing[r] = numbers_[term.velocity + i] - v_[i];
        out.c[r] = -numbers_[term.acceleration + i];
      }
      break;
  }
  out.c -= numbers(term.damping, rows).cwiseProduct(out.missing);
  if (term.stiffness >= 0) out.c -= numbers(term.stiffness, rows).cwiseProduct(out.error);
}

void WholeBodyRows::add_cost(const Term& term, const Residual& r, const RowMajor& T, RowMajor& H, VectorXd& g) {
  const int rows = static_cast<int>(term.rows.size());
  switch (term.kind) {
    case TermKind::posture:
      for (int k = 0; k < rows; ++k) {
        H(term.rows[k], term.rows[k]) += weight(term, k);
        g[term.rows[k]] += weight(term, k) * r.c[k];
      }
      return;
    case TermKind::selection:
      for (int k = 0; k < rows; ++k)
        for (int p = 0; p < term.points; ++p) {
          const int i = term.first + term.rows[k] + 3 * p;
          for (int s = 0; s < term.points; ++s) H(i, term.first + term.rows[k] + 3 * s) += weight(term, k);
          g[i] += weight(term, k) * r.c[k];
        }
      return;
    case TermKind::torque: {
      auto weighted = weighted_.topRows(rows);
      for (int k = 0; k < rows; ++k) weighted.row(k) = weight(term, k) * T.row(k);
      H.noalias() += T.transpose() * weighted;
      g.noalias() += weighted.transpose() * r.c;
      return;
    }
    default: {
      auto weighted = weighted_.topLeftCorner(rows, nv_);
      for (int k = 0; k < rows; ++k) weighted.row(k) = weight(term, k) * r.J.row(k);
      H.topLeftCorner(nv_, nv_).noalias() += r.J.transpose() * weighted;
      g.head(nv_).noalias() += weighted.transpose() * r.c;
    }
  }
}

void WholeBodyRows::add_constraint(const Term& term, const Residual& r, int row, WholeBodyMatrices& out) const {
  const int rows = static_cast<int>(term.rows.size());
  if (term.kind == TermKind::posture)
    for (int k = 0; k < rows; ++k) out.A(row + k, term.rows[k]) = 1.0;
  else
    out.A.block(row, 0, rows, nv_) = r.J;
  out.b.segment(row, rows) = -r.c;
}

int WholeBodyRows::term_rows() const {
  std::size_t sum = 0;
  for (const Term& term : settings_.terms) sum += term.rows.size();
  return static_cast<int>(sum);
}

void WholeBodyRows::residuals(const VectorXd& x, double* residual, double* error) const {
  for (std::size_t t = 0; t < settings_.terms.size(); ++t) {
    const Term& term = settings_.terms[t];
    const Residual& own = residuals_[t];
    const bool follows = term.stiffness >= 0;
    for (std::size_t k = 0; k < term.rows.size(); ++k, ++residual, ++error) {
      *error = follows ? own.error[k] : 0.0;
      *residual = own.c[k];
      if (term.kind == TermKind::torque)
        *residual += D_.row(settings_.actuated[k]).dot(x);
      else if (term.kind == TermKind::posture)
        *residual += x[term.rows[k]];
      else if (term.kind == TermKind::selection)
        for (int p = 0; p < term.points; ++p) *residual += x[term.first + term.rows[k] + 3 * p];
      else
        *residual += own.J.row(k).dot(x.head(nv_));
    }
  }
}

void WholeBodyRows::cost(int level, const RowMajor& T, RowMajor& H, VectorXd& g) {
  H.setZero(sizes_.n, sizes_.n);
  g.setZero(sizes_.n);
  for (std::size_t k = 0; k < settings_.terms.size(); ++k) {
    const Term& term = settings_.terms[k];
    if (!term.hard && term.level == level) add_cost(term, residuals_[k], T, H, g);
  }
}

void WholeBodyRows::problem(const double* q, const double* v, const double* numbers, WholeBodyMatrices& out,
                            int level) {
  q_ = Eigen::Map<const VectorXd>(q, nq_);
  v_ = Eigen::Map<const VectorXd>(v, nv_);
  numbers_ = numbers;
  out.resize(sizes_, nu());
  dynamics();
  int row = 0;
  for (int i : undriven_) {
    out.A.row(row) = D_.row(i);
    out.b[row++] = -h_[i];
  }
  for (int k = 0; k < nu(); ++k) {
    out.T.row(k) = D_.row(settings_.actuated[k]);
    out.t[k] = h_[settings_.actuated[k]];
  }
  for (std::size_t k = 0; k < settings_.terms.size(); ++k) {
    const Term& term = settings_.terms[k];
    residual(term, residuals_[k]);
    if (term.hard) {
      add_constraint(term, residuals_[k], row, out);
      row += static_cast<int>(term.rows.size());
    } else if (level == 0 || term.level == level) {
      add_cost(term, residuals_[k], out.T, out.H, out.g);
    }
  }
  row = 0;
  if (settings_.torque_upper >= 0) {
    out.C.topRows(nu()) = out.T;
    out.l.head(nu()) = this->numbers(settings_.torque_lower, nu()) - out.t;
    out.u.head(nu()) = this->numbers(settings_.torque_upper, nu()) - out.t;
    row = nu();
  }
  for (const Support& support : settings_.supports) {
    forces(support, row, out);
    row += static_cast<int>(support.points.size() * support.directions.size()) + 1;
  }
  for (const Barrier& b : settings_.barriers) barrier(b, row++, out);
  out.lb.setConstant(-infinity);
  out.ub.setConstant(infinity);
  for (const JointBounds& b : settings_.bounds) bounds(b, out);
}

}  // namespace qp_control
