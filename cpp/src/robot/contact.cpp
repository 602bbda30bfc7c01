#include "qp_control/contact.hpp"

#include <cmath>
#include <pinocchio/multibody.hpp>
#include <stdexcept>
#include <string>

#include "contact_step.hpp"
#include "workers.hpp"

namespace qp_control {

using Eigen::Map;
using Eigen::MatrixXd;
using Eigen::VectorXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

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

struct ContactWorker {
  ContactWorker(const pinocchio::Model& model, const RigidBodySettings& settings, const ContactSettings& contact)
      : robot(model), step(robot, model, settings, contact), T(MatrixXd::Zero(robot.nq(), robot.nv())) {}

  // Gradients between coordinates of the state and its tangent space.
  void to_tangent(const VectorXd& q, const double* g) {
    const int nq = robot.nq(), nv = robot.nv();
    by_next.resize(2 * nv);
    robot.tangent_map(q, T);
    by_next.head(nv).noalias() = T.transpose() * Map<const VectorXd>(g, nq);
    by_next.tail(nv) = Map<const VectorXd>(g + nq, nv);
  }
  void from_tangent(const VectorXd& q, const VectorXd& tangent, double* g) {
    const int nq = robot.nq(), nv = robot.nv();
    robot.tangent_map(q, T);
    Map<VectorXd>(g, nq) = T * (T.transpose() * T).ldlt().solve(tangent.head(nv));
    Map<VectorXd>(g + nq, nv) = tangent.segment(nv, nv);
  }

  Evaluator robot;
  ContactStep step;
  MatrixXd H, T;
  VectorXd g, impulses, x_next, by_next, by_g, g_z;
};

}  // namespace

struct ContactDynamics::Implementation {
  Implementation(const pinocchio::Model& m, RigidBodySettings s, ContactSettings c)
      : model(m),
        settings(std::move(s)),
        contact(std::move(c)),
        workers([this] { return std::make_unique<ContactWorker>(model, settings, contact); }, settings.threads) {
    auto worker = workers.acquire();
    rows = worker->step.rows();
    contacts = contact.balls.size() + contact.pairs.size();
    workers.release(std::move(worker));
  }

  // Calls body(worker, element, gradient of the parameters) with the step set to each element.
  void for_each(int batch, const double* x, const double* u, Parameters p, Parameters friction, double* g_p,
                const std::function<void(ContactWorker&, std::size_t, double*)>& body) {
    const std::size_t nx = model.nq + model.nv, nu = settings.actuated.size();
    workers.check_configurations(batch, x, static_cast<int>(nx));
    workers.for_each(batch, p, g_p, [&](ContactWorker& w, int i, double* by_p) {
      w.step.set(x + i * nx, u + i * nu, friction.data + (friction.shared ? 0 : i * contacts));
      body(w, i, by_p);
    });
  }

  const pinocchio::Model model;
  const RigidBodySettings settings;
  const ContactSettings contact;
  Workers<ContactWorker> workers;
  std::size_t rows, contacts;
};

ContactDynamics::ContactDynamics(const pinocchio::Model& model, RigidBodySettings settings, ContactSettings contact)
    : implementation_((check(model, contact), new Implementation(model, std::move(settings), std::move(contact)))) {}
ContactDynamics::~ContactDynamics() = default;

int ContactDynamics::rows() const { return static_cast<int>(implementation_->rows); }

void ContactDynamics::problem(int batch, const double* x, const double* u, Parameters p, Parameters friction, double* H,
                              double* g) const {
  const std::size_t m = implementation_->rows;
  implementation_->for_each(batch, x, u, p, friction, nullptr, [&](ContactWorker& w, std::size_t i, double*) {
    w.H.resize(m, m);
    w.step.problem(w.H, w.g);
    Map<RowMajor>(H + i * m * m, m, m) = w.H;
    Map<VectorXd>(g + i * m, m) = w.g;
  });
}

void ContactDynamics::step(int batch, const double* x, const double* u, Parameters p, Parameters friction,
                           const double* impulses, double* x_next) const {
  const std::size_t m = implementation_->rows, nx = implementation_->model.nq + implementation_->model.nv;
  implementation_->for_each(batch, x, u, p, friction, nullptr, [&](ContactWorker& w, std::size_t i, double*) {
    w.impulses = Map<const VectorXd>(impulses + i * m, m);
    w.step.step(w.impulses, x_next + i * nx);
  });
}

void ContactDynamics::loss(int batch, const double* x, const double* u, Parameters p, Parameters friction,
                           const double* impulses, const double* g, double* loss) const {
  const std::size_t m = implementation_->rows, nq = implementation_->model.nq, nx = nq + implementation_->model.nv;
  implementation_->for_each(batch, x, u, p, friction, nullptr, [&](ContactWorker& w, std::size_t i, double*) {
    w.impulses = Map<const VectorXd>(impulses + i * m, m);
    w.x_next.resize(nx);
    w.step.step(w.impulses, w.x_next.data());
    w.to_tangent(w.x_next.head(nq), g + i * nx);
    w.step.loss(w.impulses, w.by_next, w.g);
    Map<VectorXd>(loss + i * m, m) = w.g;
  });
}

void ContactDynamics::adjoint(int batch, const double* x, const double* u, Parameters p, Parameters friction,
                              const double* impulses, const double* g, const double* adjoint, Gradients out,
                              double* by_friction) const {
  const std::size_t m = implementation_->rows, nq = implementation_->model.nq, nx = nq + implementation_->model.nv;
  const std::size_t nu = implementation_->settings.actuated.size(), contacts = implementation_->contacts;
  implementation_->for_each(batch, x, u, p, friction, out.parameters,
                            [&](ContactWorker& w, std::size_t i, double* g_p) {
                              w.impulses = Map<const VectorXd>(impulses + i * m, m);
                              w.by_g = Map<const VectorXd>(adjoint + i * m, m);
                              w.x_next.resize(nx);
                              w.step.step(w.impulses, w.x_next.data());
                              w.to_tangent(w.x_next.head(nq), g + i * nx);
                              w.step.loss(w.impulses, w.by_next, w.g);
                              double* to_friction = by_friction == nullptr ? nullptr : by_friction + i * contacts;
                              if (to_friction != nullptr) std::fill_n(to_friction, contacts, 0.0);
                              w.step.adjoint(w.impulses, w.by_g, w.g_z, g_p, to_friction);
                              if (out.x != nullptr)
                                w.from_tangent(Map<const VectorXd>(x + i * nx, nq), w.g_z, out.x + i * nx);
                              if (out.u != nullptr) Map<VectorXd>(out.u + i * nu, nu) = w.g_z.tail(nu);
                            });
}

void ContactDynamics::contacts(int batch, const double* x, Parameters p, Parameters friction, const double* impulses,
                               double* gaps, double* forces) const {
  const std::size_t m = implementation_->rows, contacts = implementation_->contacts;
  const std::vector<double> still(std::size_t(batch) * implementation_->settings.actuated.size(), 0.0);
  implementation_->for_each(
      batch, x, still.data(), p, friction, nullptr, [&](ContactWorker& w, std::size_t i, double*) {
        w.impulses = Map<const VectorXd>(impulses + i * m, m);
        for (std::size_t c = 0; c < contacts; ++c) {
          gaps[i * contacts + c] = w.step.gap(static_cast<int>(c));
          Map<Eigen::Vector3d>(forces + 3 * (i * contacts + c)) = w.step.force(static_cast<int>(c), w.impulses);
        }
      });
}

}  // namespace qp_control
