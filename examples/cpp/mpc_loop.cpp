// A controller that Python has exported, in a loop at its own rate without Python. The plant is the controller's model.
//
//   python examples/cpp/export_controller.py controller
//   mpc_loop controller 2000 trace.csv 0.5 0 0.05 0        ticks, a file for the trace, and the state at the start
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <limits>

#include "control_clock.hpp"
#include "qp_control/linear_mpc.hpp"

using namespace qp_control;

namespace {

// x_next = A x + B u + c, as exported; the first stage's where they differ.
class Plant {
 public:
  explicit Plant(const ParameterFiles& from)
      : nx_(static_cast<long>(from.number("model_nx"))),
        nu_(static_cast<long>(from.number("nu"))),
        width_(static_cast<long>(from.number("nx"))),
        A_(from.arrays.at("A").data),
        B_(from.arrays.at("B").data),
        c_(from.arrays.at("c").data),
        next_(nx_) {}

  void step(std::vector<double>& x, const double* u) {
    for (long i = 0; i < nx_; ++i) {
      next_[i] = c_[i];
      for (long j = 0; j < nx_; ++j) next_[i] += A_[i * width_ + j] * x[j];
      for (long j = 0; j < nu_; ++j) next_[i] += B_[i * nu_ + j] * u[j];
    }
    x.swap(next_);
  }

 private:
  const long nx_, nu_, width_;
  const std::vector<double> A_, B_, c_;
  std::vector<double> next_;
};

int run(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s FOLDER TICKS TRACE [x ...]\n", argv[0]);
    return 2;
  }
  const ParameterFiles parameters = read_parameters(argv[1]);
  LinearMpc mpc(parameters);
  Plant plant(parameters);
  const int ticks = std::atoi(argv[2]);
  std::vector<double> x(mpc.nx(), 0.0);
  for (int i = 0; i < mpc.nx() && 4 + i < argc; ++i) x[i] = std::strtod(argv[4 + i], nullptr);

  struct Row {
    std::vector<double> x, u;
    Status status;
  };
  std::vector<Row> trace(ticks, {x, std::vector<double>(mpc.nu()), Status::NUMERICAL_ERROR});
  ControlClock clock(ticks, mpc.period());
  const double* u = nullptr;
  clock.run(
      ticks, [&](int) { u = mpc.tick(x.data()); },
      [&](int k) {
        std::copy(x.begin(), x.end(), trace[k].x.begin());
        std::copy_n(u, mpc.nu(), trace[k].u.begin());
        trace[k].status = mpc.status();
        plant.step(x, u);
      });
  clock.print();

  std::ofstream file(argv[3]);
  file.precision(std::numeric_limits<double>::max_digits10);
  for (const Row& row : trace) {
    for (const double value : row.x) file << value << ',';
    for (const double value : row.u) file << value << ',';
    file << static_cast<int>(row.status) << '\n';
  }
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
