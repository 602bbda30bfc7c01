// Pinocchio's own algorithms in a loop on one thread: what batched dynamics are measured against. Prints microseconds
// per state of forward dynamics, its derivatives, inverse dynamics and its derivatives: the least mean of several
// rounds.
//   pinocchio_loop manipulator|humanoid BATCH ROUNDS
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <pinocchio/algorithm/aba-derivatives.hpp>
#include <pinocchio/algorithm/aba.hpp>
#include <pinocchio/algorithm/joint-configuration.hpp>
#include <pinocchio/algorithm/rnea-derivatives.hpp>
#include <pinocchio/algorithm/rnea.hpp>
#include <pinocchio/multibody.hpp>
#include <pinocchio/multibody/sample-models.hpp>
#include <string>
#include <vector>

using Eigen::MatrixXd;
using Eigen::VectorXd;

template <class Action>
double microseconds(int batch, int rounds, Action action) {
  double least = 1e300;
  for (int round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < batch; ++i) action(i);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    least = std::min(least, took.count() / batch);
  }
  return least;
}

int main(int count, char** arguments) {
  if (count != 4) {
    std::fprintf(stderr, "usage: pinocchio_loop manipulator|humanoid BATCH ROUNDS\n");
    return 2;
  }
  pinocchio::Model model;
  if (std::string(arguments[1]) == "humanoid")
    pinocchio::buildModels::humanoid(model, true);
  else
    pinocchio::buildModels::manipulator(model);
  const int batch = std::atoi(arguments[2]), rounds = std::atoi(arguments[3]);
  pinocchio::Data data(model);
  std::vector<VectorXd> q(batch), v(batch), tau(batch);
  const VectorXd neutral = pinocchio::neutral(model);
  for (int i = 0; i < batch; ++i) {
    q[i] = pinocchio::integrate(model, neutral, VectorXd(VectorXd::Random(model.nv)));
    v[i] = VectorXd::Random(model.nv);
    tau[i] = VectorXd::Random(model.nv);
  }
  MatrixXd a = MatrixXd::Zero(model.nv, model.nv), b = a, c = a;
  const double times[] = {
      microseconds(batch, rounds, [&](int i) { pinocchio::aba(model, data, q[i], v[i], tau[i]); }),
      microseconds(batch, rounds,
                   [&](int i) { pinocchio::computeABADerivatives(model, data, q[i], v[i], tau[i], a, b, c); }),
      microseconds(batch, rounds, [&](int i) { pinocchio::rnea(model, data, q[i], v[i], tau[i]); }),
      microseconds(batch, rounds,
                   [&](int i) { pinocchio::computeRNEADerivatives(model, data, q[i], v[i], tau[i], a, b, c); }),
  };
  std::printf("%.17g %.17g %.17g %.17g\n", times[0], times[1], times[2], times[3]);
}
