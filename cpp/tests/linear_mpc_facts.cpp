// A linear controller in C++ alone: what its ticks say and allocate, and which parameters it refuses.
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>

#include "allocations.hpp"
#include "check.hpp"
#include "qp_control/linear_mpc.hpp"

using namespace qp_control;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr int horizon = 10;

// A mass on a rail: position [m] and velocity [m/s], which are limited, and so is its force [N].
ParameterFiles mass_on_a_rail() {
  constexpr double dt = 0.1;
  ParameterFiles out;
  out.kind = "linear_mpc";
  out.numbers = {{"horizon", horizon}, {"model_nx", 2},      {"nx", 2},        {"nu", 1},
                 {"rows", 0},          {"terminal_rows", 0}, {"delay", 0},     {"period", dt},
                 {"eps_abs", 1e-8},    {"eps_rel", 1e-12},   {"eps_gap", 0.0}, {"reduced_eps_rel", 0.0},
                 {"max_iter", 2000},   {"time_limit", 0.0},  {"closest", 1.0}};
  out.arrays = {{"A", {{2, 2}, {1.0, dt, 0.0, 1.0}}},
                {"B", {{2, 1}, {0.5 * dt * dt, dt}}},
                {"Q", {{2, 2}, {1.0, 0.0, 0.0, 0.1}}},
                {"Q_N", {{2, 2}, {10.0, 0.0, 0.0, 1.0}}},
                {"R", {{1, 1}, {0.01}}},
                {"u_lower", {{1}, {-1.0}}},
                {"u_upper", {{1}, {1.0}}},
                {"x_lower", {{2}, {-infinity, -0.5}}},
                {"x_upper", {{2}, {infinity, 0.5}}},
                {"reference", {{2}, {0.0, 0.0}}}};
  return out;
}

const Register ticks_allocate_nothing(
    "a tick allocates nothing, whatever the state, and goes on after one that is none", [] {
      LinearMpc mpc(mass_on_a_rail());
      const auto expect = [&](double position, double velocity, Status status, const char* what) {
        for (int k = 0; k < 3; ++k) {
          const double x[] = {position, velocity};
          const double* u = nullptr;
          check(allocations_of([&] { u = mpc.tick(x); }) == 0, "no allocation");
          check(mpc.status() == status, what);
          check(std::isfinite(u[0]), "an input in any case");
        }
      };
      expect(1.0, 0.0, Status::SOLVED, "solved");
      expect(1.0, 2.0, Status::CLOSEST_FEASIBLE, "too fast");
      expect(not_a_number, 0.0, Status::INVALID_INPUT, "NaN");
      expect(infinity, 0.0, Status::INVALID_INPUT, "infinite");
      expect(0.9, 0.0, Status::SOLVED, "solved again");
      const double r[] = {not_a_number, 0.0}, origin[] = {0.0, 0.0};
      mpc.set_reference(r);
      expect(0.9, 0.0, Status::INVALID_INPUT, "a reference that is none");
      mpc.set_reference(origin);
      expect(0.9, 0.0, Status::SOLVED, "and one that is");
      mpc.settings().closest = false;
      expect(1.0, 2.0, Status::PRIMAL_INFEASIBLE, "too fast, to be proved");
    });

const Register repeated_plans("without an answer the last plan goes on", [] {
  LinearMpc mpc(mass_on_a_rail());
  const double x[] = {0.02, 0.0}, none[] = {not_a_number, 0.0};
  mpc.tick(x);
  const std::vector<double> plan(mpc.inputs(), mpc.inputs() + horizon);
  check(std::abs(plan[1]) > 1e-3, "a plan that moves");
  for (int k = 1; k < horizon; ++k) check(*mpc.tick(none) == plan[k], "its next input");
  mpc.reset();
  check(*mpc.tick(none) == 0.0, "nothing without a plan");
});

const Register places_of_states("states are those of the horizon", [] {
  LinearMpc mpc(mass_on_a_rail());
  const double x[] = {1.0, 0.0};
  mpc.tick(x);
  check(mpc.state(0)[0] == 1.0 && std::isfinite(mpc.state(horizon)[1]), "first and last");
  for (const int k : {-1, horizon + 1}) {
    bool refused = false;
    try {
      mpc.state(k);
    } catch (const std::out_of_range&) {
      refused = true;
    }
    check(refused, "no state beside them");
  }
});

const Register threads_do_not_meet("controllers in several threads answer as one alone", [] {
  const ParameterFiles parameters = mass_on_a_rail();
  const auto run = [&](std::vector<double>& out) {
    LinearMpc mpc(parameters);
    std::vector<double> x{1.0, 0.7};
    for (int k = 0; k < 200; ++k) {
      const double u = *mpc.tick(x.data());
      out.push_back(u);
      x = {x[0] + 0.1 * x[1] + 0.005 * u, x[1] + 0.1 * u};
    }
  };
  std::vector<double> alone, first, second;
  run(alone);
  std::thread one([&] { run(first); }), other([&] { run(second); });
  one.join();
  other.join();
  check(alone == first && alone == second, "the same bits");
  check(std::abs(alone.back()) < 1e-3, "it arrives");
});

const Register refusals("parameters that make no controller are refused by name", [] {
  using Change = std::function<void(ParameterFiles&)>;
  const auto expect = [](const std::string& message, const Change& change) {
    ParameterFiles parameters = mass_on_a_rail();
    parameters.folder = "somewhere";
    change(parameters);
    std::string found = "accepted";
    try {
      LinearMpc mpc(parameters);
    } catch (const std::runtime_error& error) {
      found = error.what();
    }
    check(found.rfind("somewhere: " + message, 0) == 0, (message + ": " + found).c_str());
  };
  const auto number = [](const char* name, double value) {
    return [=](ParameterFiles& p) { p.numbers[name] = value; };
  };
  const auto array = [](const char* name, std::vector<long> shape, double value) {
    return [=](ParameterFiles& p) {
      std::size_t count = 1;
      for (const long size : shape) count *= static_cast<std::size_t>(size);
      p.arrays[name] = {shape, std::vector<double>(count, value)};
    };
  };
  expect("these are parameters of a controller cat", [](ParameterFiles& p) { p.kind = "cat"; });
  expect("there is no number horizon", [](ParameterFiles& p) { p.numbers.erase("horizon"); });
  expect("there is no array A", [](ParameterFiles& p) { p.arrays.erase("A"); });
  expect("horizon is ", number("horizon", 0.0));
  expect("horizon is ", number("horizon", 2.5));
  expect("horizon is ", number("horizon", 1e300));
  expect("horizon is ", number("horizon", not_a_number));
  expect("nx is 4", number("nx", 4));
  expect("eps_abs is ", number("eps_abs", not_a_number));
  expect("max_iter is ", number("max_iter", 0));
  expect("the array A has shape (10, 2, 3), expected (2, 2) or (10, 2, 2)", array("A", {horizon, 2, 3}, 0.0));
  expect("the array A has shape (0, 2, 2), expected", array("A", {0, 2, 2}, 0.0));
  expect("the array A has shape (), expected", array("A", {}, 0.0));
  expect("the array x_upper has shape (12, 2), expected", array("x_upper", {horizon + 2, 2}, 0.0));
  expect("the array B has the number nan at 0", array("B", {2, 1}, not_a_number));
  expect("the array u_lower has the number inf at 0", array("u_lower", {1}, infinity));
  expect("the array R is not symmetric", [](ParameterFiles& p) {
    p.numbers["nu"] = 2;
    p.arrays["B"] = {{2, 2}, {0.0, 0.0, 0.1, 0.2}};
    p.arrays["R"] = {{2, 2}, {1.0, 0.5, 0.4, 1.0}};
    for (const char* name : {"u_lower", "u_upper"}) p.arrays.erase(name);
  });
  // The last stage's cost is then not among these stages.
  expect("the array Q has shape (10, 2, 2), expected (2, 2) or (11, 2, 2)", [&](ParameterFiles& p) {
    array("Q", {horizon, 2, 2}, 0.0)(p);
    p.arrays.erase("Q_N");
  });
});

}  // namespace

int main() { return run_facts(); }
