// A controller by inverse dynamics at 1 kHz without Python: the joints of a robot follow a sine, within torque limits.
//
//   inverse_dynamics_loop envs/assets/arm.urdf 2000 trace.csv
//
// The QP of every tick is that of qp_control.InverseDynamics with a PostureTask and a TorqueLimit. The plant is the
// model: it moves with the accelerations that the torques give.
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <limits>
#include <pinocchio/multibody/model.hpp>
#include <pinocchio/parsers/urdf.hpp>

#include "control_clock.hpp"
#include "qp_control/dense_solver.hpp"
#include "qp_control/whole_body.hpp"

using namespace qp_control;

namespace {

constexpr double period = 0.001;      // [s]
constexpr double stiffness = 400.0;   // [1/s^2], with critical damping
constexpr double amplitude = 0.5;     // [rad]
constexpr double angular_rate = 2.0;  // [rad/s]

class Controller {
 public:
  explicit Controller(const pinocchio::Model& model)
      : nv_(model.nv),
        body_(model, settings(model)),
        sizes_(body_.sizes()),
        solver_({sizes_.n, sizes_.n_eq, sizes_.n_in}),
        solution_(sizes_.n, sizes_.n_eq + sizes_.n_in + sizes_.n),
        numbers_(body_.numbers(), 0.0) {
    std::fill_n(numbers_.data(), nv_, 1.0);  // weight
    std::fill_n(numbers_.data() + nv_, nv_, stiffness);
    std::fill_n(numbers_.data() + 2 * nv_, nv_, 2.0 * std::sqrt(stiffness));  // damping
    for (int i = 0; i < nv_; ++i) {
      numbers_[6 * nv_ + i] = -model.upperEffortLimit[i];
      numbers_[7 * nv_ + i] = model.upperEffortLimit[i];
    }
    const int n = sizes_.n, rows = sizes_.n_in;
    for (auto [array, size] : {std::pair(&H_, n * n),
                               {&g_, n},
                               {&A_, sizes_.n_eq * n},
                               {&b_, sizes_.n_eq},
                               {&C_, rows * n},
                               {&l_, rows},
                               {&u_, rows},
                               {&lb_, n},
                               {&ub_, n},
                               {&T_, nv_ * n},
                               {&t_, nv_},
                               {&torque_, nv_}})
      array->assign(size, 0.0);
    hard_.assign(rows, std::numeric_limits<double>::infinity());  // torque limits are never shifted
    options_.closest = true;
  }

  // A vector space of configurations, all joints driven: n = nv = nq = nu.
  static WholeBodySettings settings(const pinocchio::Model& model) {
    if (model.nq != model.nv) throw std::runtime_error("this example is for joints with one coordinate each");
    const int nv = model.nv;
    WholeBodySettings out;
    Term posture{TermKind::posture, {}};
    for (int i = 0; i < nv; ++i) {
      out.actuated.push_back(i);
      posture.rows.push_back(i);
    }
    posture.weight = 0;
    posture.stiffness = nv;
    posture.damping = 2 * nv;
    posture.reference = 3 * nv;
    posture.velocity = 4 * nv;
    posture.acceleration = 5 * nv;
    out.terms = {posture};
    out.torque_lower = 6 * nv;
    out.torque_upper = 7 * nv;
    out.numbers = 8 * nv;
    out.threads = 1;
    return out;
  }

  // Follows a sine from where it starts, at time [s].
  void set_reference(double time) {
    for (int i = 0; i < nv_; ++i) {
      numbers_[3 * nv_ + i] = amplitude * std::sin(angular_rate * time);
      numbers_[4 * nv_ + i] = amplitude * angular_rate * std::cos(angular_rate * time);
      numbers_[5 * nv_ + i] = -amplitude * angular_rate * angular_rate * std::sin(angular_rate * time);
    }
  }

  void tick(const double* q, const double* v) {
    body_.problem(1, q, v, {numbers_.data(), true}, {},
                  {H_.data(), g_.data(), A_.data(), b_.data(), C_.data(), l_.data(), u_.data(), lb_.data(), ub_.data(),
                   T_.data(), t_.data()});
    DenseQP qp{{sizes_.n, sizes_.n_eq, sizes_.n_in},
               H_.data(),
               g_.data(),
               A_.data(),
               b_.data(),
               C_.data(),
               l_.data(),
               u_.data(),
               lb_.data(),
               ub_.data(),
               nullptr,
               hard_.data(),
               nullptr};
    solver_.solve(qp, options_, Deadline(0.0), warm_, solution_);
    warm_ = solution_.status <= Status::CLOSEST_FEASIBLE;
    if (!warm_) return;  // the torques of the tick before
    for (int i = 0; i < nv_; ++i) {
      torque_[i] = t_[i];
      for (int j = 0; j < sizes_.n; ++j) torque_[i] += T_[i * sizes_.n + j] * solution_.x[j];
    }
  }

  const Solution& solution() const { return solution_; }
  const std::vector<double>& torque() const { return torque_; }

 private:
  const int nv_;
  WholeBody body_;
  const WholeBodySizes sizes_;
  DenseSolver solver_;
  Solution solution_;
  Settings options_;
  std::vector<double> numbers_, H_, g_, A_, b_, C_, l_, u_, lb_, ub_, T_, t_, hard_, torque_;
  bool warm_ = false;
};

int run(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s URDF TICKS TRACE\n", argv[0]);
    return 2;
  }
  pinocchio::Model model;
  pinocchio::urdf::buildModel(argv[1], model);
  Controller controller(model);
  const int ticks = std::atoi(argv[2]), nv = model.nv;
  std::vector<double> q(nv, 0.0), v(nv, 0.0);
  std::vector<std::vector<double>> trace(ticks, std::vector<double>(2 * nv + 1));
  ControlClock clock(ticks, period);
  clock.run(
      ticks,
      [&](int k) {
        controller.set_reference(k * period);
        controller.tick(q.data(), v.data());
      },
      [&](int k) {
        for (int i = 0; i < nv; ++i) {
          trace[k][i] = q[i];
          trace[k][nv + i] = controller.torque()[i];
          v[i] += period * controller.solution().x[i];
          q[i] += period * v[i];
        }
        trace[k][2 * nv] = static_cast<double>(controller.solution().status);
      });
  clock.print();

  std::ofstream file(argv[3]);
  file.precision(std::numeric_limits<double>::max_digits10);
  for (const auto& row : trace)
    for (std::size_t i = 0; i < row.size(); ++i) file << row[i] << (i + 1 < row.size() ? ',' : '\n');
  return file ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
