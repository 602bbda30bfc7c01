// Centre of mass and momentum of the whole robot, and their gradients by the recursion of tree.hpp.
#include <pinocchio/algorithm/jacobian.hpp>
#include <pinocchio/algorithm/regressor.hpp>

#include "evaluator_state.hpp"

namespace qp_control {

using Eigen::Vector3d;
using Eigen::VectorXd;

namespace {

// Mass and its first moment in the world, of what each joint carries.
void gather_masses(const pinocchio::Model& model, const pinocchio::Data& data, std::vector<Eigen::Vector4d>& sums) {
  sums.assign(model.njoints, Eigen::Vector4d::Zero());
  for (int b = model.njoints - 1; b > 0; --b) {
    const double m = model.inertias[b].mass();
    sums[b][0] += m;
    sums[b].tail<3>() += m * data.oMi[b].act(model.inertias[b].lever());
    sums[model.parents[b]] += sums[b];
  }
}

}  // namespace

Centroid Evaluator::centroid(const VectorXd& q, const VectorXd& v, const VectorXd& a) {
  auto& s = *implementation_;
  pinocchio::computeJointJacobians(s.model, s.data, q);
  s.tree.move(s.model, s.data, v, a, VectorXd::Zero(nv()), Vector6::Zero(), Vector6::Zero());
  s.tree.load(s.model, s.data);
  s.tree.gather(s.model);
  gather_masses(s.model, s.data, s.masses);
  Centroid out{s.masses[0].tail<3>() / s.masses[0][0], s.tree.bodies[0].h, s.tree.bodies[0].F};
  for (auto* f : {&out.momentum, &out.rate}) f->tail<3>() -= out.position.cross(Vector3d(f->head<3>()));
  return out;
}

double Evaluator::mass() const {
  const auto& inertias = implementation_->model.inertias;
  double sum = 0.0;
  for (int b = 1; b < implementation_->model.njoints; ++b) sum += inertias[b].mass();
  return sum;
}

void Evaluator::momentum_matrix(const Vector3d& centre, Eigen::MatrixXd& A) const {
  auto& s = *implementation_;
  A.resize(6, nv());
  for (int b = 1; b < s.model.njoints; ++b) s.composite[b] = s.tree.bodies[b].I;
  for (int b = s.model.njoints - 1; b > 0; --b) {
    s.composite[s.model.parents[b]] += s.composite[b];
    for (int i = s.model.idx_vs[b]; i < s.model.idx_vs[b] + s.model.nvs[b]; ++i) {
      A.col(i).noalias() = s.composite[b] * s.data.J.col(i);
      A.col(i).tail<3>() -= centre.cross(Vector3d(A.col(i).head<3>()));
    }
  }
}

void Evaluator::centroid_adjoint(const VectorXd& q, const VectorXd& v, const VectorXd& a, Centroid g, VectorXd& g_q,
                                 VectorXd& g_v, VectorXd& g_a, double* g_p) {
  auto& s = *implementation_;
  const Centroid at = centroid(q, v, a);
  // About the world's origin instead of the centre of mass.
  for (auto [f, g_f] : {std::pair(&at.momentum, &g.momentum), std::pair(&at.rate, &g.rate)}) {
    const Vector3d force = f->head<3>(), g_torque = g_f->tail<3>();
    g.position -= force.cross(g_torque);
    g_f->head<3>() -= g_torque.cross(at.position);
  }
  const double mass = s.masses[0][0];
  for (const bool rate : {false, true}) {
    const Vector6& along = rate ? g.rate : g.momentum;
    s.tree.move(s.model, s.data, v, a, VectorXd::Zero(nv()), along, Vector6::Zero());
    s.tree.load(s.model, s.data);
    if (g_p != nullptr)
      for (int b = 1; b < s.model.njoints; ++b) {
        const auto own = [&](const Vector6& twist) { return s.data.oMi[b].actInv(pinocchio::Motion(twist)); };
        const Body& body = s.tree.bodies[b];
        const pinocchio::Motion none = pinocchio::Motion::Zero();
        Eigen::Map<Eigen::Matrix<double, 10, 1>>(g_p + 10 * (b - 1)).noalias() +=
            (rate ? pinocchio::bodyRegressor(own(body.V), own(body.A)) : pinocchio::bodyRegressor(none, own(body.V)))
                .transpose() *
            own(along).toVector();
      }
    s.tree.gather(s.model);
    for (int b = 1; b < s.model.njoints; ++b) {
      const Body& body = s.tree.bodies[b];
      for (int i = s.model.idx_vs[b]; i < s.model.idx_vs[b] + s.model.nvs[b]; ++i) {
        const Change& c = s.tree.changes[i];
        const auto S_i = s.data.J.col(i);
        if (rate) {
          g_q[i] += c.u.dot(body.F) + c.w.dot(body.G) + c.a.dot(body.P);
          g_v[i] += S_i.dot(body.G) + c.a_of_v.dot(body.P);
          g_a[i] += S_i.dot(body.P);
        } else {
          Vector6 weight;
          weight << s.masses[b][0] * g.position, Vector3d(s.masses[b].tail<3>()).cross(g.position);
          g_q[i] = c.u.dot(body.h) + c.w.dot(body.P) + S_i.dot(weight) / mass;
          g_v[i] = S_i.dot(body.P);
          g_a[i] = 0.0;
        }
      }
    }
  }
  if (g_p == nullptr) return;
  for (int b = 1; b < s.model.njoints; ++b) {
    g_p[10 * (b - 1)] += g.position.dot(s.data.oMi[b].translation() - at.position) / mass;
    Eigen::Map<Vector3d>(g_p + 10 * (b - 1) + 1) += s.data.oMi[b].rotation().transpose() * g.position / mass;
  }
}

}  // namespace qp_control
