#include "qp_control/whole_body.hpp"

#include <pinocchio/multibody.hpp>
#include <stdexcept>
#include <string>

#include "whole_body_rows.hpp"
#include "workers.hpp"

namespace qp_control {

using Eigen::Map;
using Eigen::VectorXd;

namespace {

struct WholeBodyWorker {
  WholeBodyWorker(const pinocchio::Model& model, const WholeBodySettings& settings)
      : robot(model), rows(robot, settings), T(Eigen::MatrixXd::Zero(robot.nq(), robot.nv())) {}

  Evaluator robot;
  WholeBodyRows rows;
  WholeBodyMatrices matrices, by;
  Eigen::MatrixXd T;
};

void write(const RowMajor& from, double* to, std::size_t i) {
  Map<RowMajor>(to + i * from.size(), from.rows(), from.cols()) = from;
}
void write(const VectorXd& from, double* to, std::size_t i) {
  if (to != nullptr) Map<VectorXd>(to + i * from.size(), from.size()) = from;
}

// Into a matrix or vector of the right size; without data, zero.
template <class Matrix>
void read(Matrix& to, const double* from, std::size_t i) {
  if (from == nullptr)
    to.setZero();
  else
    to = Map<const Matrix>(from + i * to.size(), to.rows(), to.cols());
}

}  // namespace

struct WholeBody::Implementation {
  Implementation(const pinocchio::Model& m, WholeBodySettings s)
      : model(m),
        settings(std::move(s)),
        workers([this] { return std::make_unique<WholeBodyWorker>(model, settings); }, settings.threads) {
    auto worker = workers.acquire();
    sizes = worker->rows.sizes();
    workers.release(std::move(worker));
  }

  // Calls body(worker, element, gradient of the parameters) with the problem of each element in its matrices.
  void for_each(int batch, const double* q, const double* v, Parameters numbers, Parameters p, double* g_p,
                const std::function<void(WholeBodyWorker&, std::size_t, double*)>& body) {
    const std::size_t nq = model.nq, nv = model.nv;
    workers.check_configurations(batch, q, model.nq);
    workers.for_each(batch, p, g_p, [&](WholeBodyWorker& w, int i, double* by_p) {
      w.rows.problem(q + i * nq, v + i * nv, numbers.data + (numbers.shared ? 0 : std::size_t(i) * settings.numbers),
                     w.matrices);
      body(w, i, by_p);
    });
  }

  const pinocchio::Model model;
  const WholeBodySettings settings;
  Workers<WholeBodyWorker> workers;
  WholeBodySizes sizes;
};

WholeBody::WholeBody(const pinocchio::Model& model, WholeBodySettings settings)
    : implementation_(new Implementation(model, std::move(settings))) {}
WholeBody::~WholeBody() = default;

WholeBodySizes WholeBody::sizes() const { return implementation_->sizes; }
int WholeBody::numbers() const { return implementation_->settings.numbers; }

void WholeBody::problem(int batch, const double* q, const double* v, Parameters numbers, Parameters p,
                        WholeBodyProblem<double> out) const {
  implementation_->for_each(batch, q, v, numbers, p, nullptr, [&](WholeBodyWorker& w, std::size_t i, double*) {
    const WholeBodyMatrices& m = w.matrices;
    for (auto [from, to] : {std::pair(&m.H, out.H), {&m.A, out.A}, {&m.C, out.C}, {&m.T, out.T}}) write(*from, to, i);
    for (auto [from, to] : {std::pair(&m.g, out.g),
                            {&m.b, out.b},
                            {&m.l, out.l},
                            {&m.u, out.u},
                            {&m.lb, out.lb},
                            {&m.ub, out.ub},
                            {&m.t, out.t}})
      write(*from, to, i);
  });
}

int WholeBody::term_rows() const {
  auto worker = implementation_->workers.acquire();
  const int rows = worker->rows.term_rows();
  implementation_->workers.release(std::move(worker));
  return rows;
}

void WholeBody::residuals(int batch, const double* q, const double* v, Parameters numbers, Parameters p,
                          const double* x, double* residual, double* error) const {
  const std::size_t n = implementation_->sizes.n, rows = term_rows();
  implementation_->for_each(batch, q, v, numbers, p, nullptr, [&](WholeBodyWorker& w, std::size_t i, double*) {
    w.rows.residuals(Map<const VectorXd>(x + i * n, n), residual + i * rows, error + i * rows);
  });
}

void WholeBody::adjoint(int batch, const double* q, const double* v, Parameters numbers, Parameters p,
                        WholeBodyProblem<const double> g, WholeBodyGradients out) const {
  const std::size_t nq = implementation_->model.nq, nv = implementation_->model.nv;
  implementation_->for_each(batch, q, v, numbers, p, out.parameters,
                            [&](WholeBodyWorker& w, std::size_t i, double* by_p) {
                              WholeBodyMatrices& by = w.by;
                              by.resize(w.rows.sizes(), w.rows.nu());
                              for (auto [to, from] : {std::pair(&by.H, g.H), {&by.A, g.A}, {&by.C, g.C}, {&by.T, g.T}})
                                read(*to, from, i);
                              for (auto [to, from] : {std::pair(&by.g, g.g),
                                                      {&by.b, g.b},
                                                      {&by.l, g.l},
                                                      {&by.u, g.u},
                                                      {&by.lb, g.lb},
                                                      {&by.ub, g.ub},
                                                      {&by.t, g.t}})
                                read(*to, from, i);
                              w.rows.adjoint(by, by_p);
                              if (out.q != nullptr) {
                                Map<VectorXd> to(out.q + i * nq, nq);
                                if (nq == nv) {
                                  to = w.rows.by_q();
                                } else {
                                  // Least-norm gradient by coordinates that has this tangent
                                  w.robot.tangent_map(Map<const VectorXd>(q + i * nq, nq), w.T);
                                  to = w.T * (w.T.transpose() * w.T).ldlt().solve(w.rows.by_q());
                                }
                              }
                              write(w.rows.by_v(), out.v, i);
                              write(w.rows.by_numbers(), out.numbers, i);
                            });
}

}  // namespace qp_control
