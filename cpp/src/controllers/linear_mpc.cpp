#include "qp_control/linear_mpc.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "errors.hpp"
#include "qp_control/linear_algebra.hpp"
#include "qp_control/ocp_worker.hpp"
#include "ranges.hpp"

namespace qp_control {
namespace {

// An argument of the problem: its size per stage and its stages beside one; 0: none but the last.
struct Argument {
  const char* name;
  StageArray OcpBatch::* array;
  std::vector<long> shape;
  long stages, more;  // as many, or more
  Range range = Range::FINITE;
};

std::vector<Argument> arguments(const OcpDims& d) {
  const long N = d.horizon, nx = d.nx, nu = d.nu, rows = d.rows, terminal = d.terminal_rows;
  return {
      {"Q", &OcpBatch::Q, {nx, nx}, N, 1},
      {"R", &OcpBatch::R, {nu, nu}, N, 0},
      {"S", &OcpBatch::S, {nu, nx}, N, 0},
      {"q", &OcpBatch::q, {nx}, N, 1},
      {"r", &OcpBatch::r, {nu}, N, 0},
      {"Q_N", &OcpBatch::Q_N, {nx, nx}, 0, 0},
      {"q_N", &OcpBatch::q_N, {nx}, 0, 0},
      {"A", &OcpBatch::A, {nx, nx}, N, 0},
      {"B", &OcpBatch::B, {nx, nu}, N, 0},
      {"c", &OcpBatch::c, {nx}, N, 0},
      {"C", &OcpBatch::C, {rows, nx}, N, 0},
      {"D", &OcpBatch::D, {rows, nu}, N, 0},
      {"lower", &OcpBatch::lower, {rows}, N, 0, Range::LOWER},
      {"upper", &OcpBatch::upper, {rows}, N, 0, Range::UPPER},
      {"C_N", &OcpBatch::C_N, {terminal, nx}, 0, 0},
      {"lower_N", &OcpBatch::lower_N, {terminal}, 0, 0, Range::LOWER},
      {"upper_N", &OcpBatch::upper_N, {terminal}, 0, 0, Range::UPPER},
      {"x_lower", &OcpBatch::x_lower, {nx}, N, 1, Range::LOWER},
      {"x_upper", &OcpBatch::x_upper, {nx}, N, 1, Range::UPPER},
      {"u_lower", &OcpBatch::u_lower, {nu}, N, 0, Range::LOWER},
      {"u_upper", &OcpBatch::u_upper, {nu}, N, 0, Range::UPPER},
      {"slack_linear", &OcpBatch::slack_linear, {rows}, N, 0, Range::NOT_NEGATIVE},
      {"slack_quadratic", &OcpBatch::slack_quadratic, {rows}, N, 0, Range::NOT_NEGATIVE},
      {"slack_linear_N", &OcpBatch::slack_linear_N, {terminal}, 0, 0, Range::NOT_NEGATIVE},
      {"slack_quadratic_N", &OcpBatch::slack_quadratic_N, {terminal}, 0, 0, Range::NOT_NEGATIVE},
  };
}

// A field of the solution that a solve starts from: of the last plan, and where the next one goes.
struct PlanField {
  MutableBatchArray OcpBatchSolution::* array;
  long stages, size;
  std::vector<double> plan = std::vector<double>(stages * size, 0.0), next = plan;
};

}  // namespace

struct LinearMpc::Implementation {
  explicit Implementation(const ParameterFiles& given) : parameters(given) {
    if (parameters.kind != "linear_mpc")
      fail("these are parameters of a controller " + parameters.kind + ", expected linear_mpc");
    const auto size = [&](const char* name, int least) {
      const int value = parameters.integer(name, least);
      if (value >= 1000000) fail(std::string(name) + " is " + std::to_string(value) + ", expected less than 1000000");
      return value;
    };
    batch.dims = {size("horizon", 1), size("nx", 1), size("nu", 1), size("rows", 0), size("terminal_rows", 0)};
    batch.size = 1;
    model_nx = size("model_nx", 1);
    const auto& [N, nx, nu, rows, terminal] = batch.dims;
    // The state may have the last input behind it.
    if (nx != model_nx && nx != model_nx + nu)
      fail("nx is " + std::to_string(nx) + ", expected model_nx = " + std::to_string(model_nx) +
           ", or with nu = " + std::to_string(nu) + " on top");
    period = parameters.number("period");
    settings = parameters.settings();

    for (const Argument& argument : arguments(batch.dims)) bind(argument);
    for (const char* name : {"A", "B"}) parameters.array(name);  // which there must be
    for (const char* name : {"Q", "R", "Q_N"}) check_symmetric(name);
    x0.assign(nx, 0.0);
    batch.x0 = {x0.data(), 0, 0};
    pending.assign(static_cast<std::size_t>(size("delay", 0)) * nu, 0.0);
    reference = parameters.array("reference", {model_nx}).data;
    check_range("reference", reference, Range::FINITE);
    spread_reference();

    fields = {{&OcpBatchSolution::x, N + 1, nx},     {&OcpBatchSolution::u, N, nu},
              {&OcpBatchSolution::y, N + 1, nx},     {&OcpBatchSolution::z, N, rows},
              {&OcpBatchSolution::z_N, 1, terminal}, {&OcpBatchSolution::w_x, N + 1, nx},
              {&OcpBatchSolution::w_u, N, nu}};
    for (PlanField& field : fields) out.*field.array = {field.next.data(), static_cast<long>(field.next.size())};
    shifts.assign(2 * (N + 1) * (2 * rows + 2 * terminal + nx + nu), 0.0);
    double* place = shifts.data();
    const auto room = [&](long count) {
      const MutableBatchArray array{place, count};
      place += count;
      return array;
    };
    for (auto* array : {&out.s_lower, &out.s_upper, &out.slack_lower, &out.slack_upper}) *array = room(N * rows);
    for (auto* array : {&out.s_lower_N, &out.s_upper_N, &out.slack_lower_N, &out.slack_upper_N})
      *array = room(terminal);
    for (auto* array : {&out.s_x_lower, &out.s_x_upper}) *array = room((N + 1) * nx);
    for (auto* array : {&out.s_u_lower, &out.s_u_upper}) *array = room(N * nu);
    out.objective = {&objective, 1};
    out.primal_residual = {&primal_residual, 1};
    out.dual_residual = {&dual_residual, 1};
    out.duality_gap = {&duality_gap, 1};
    out.status = &status;
    out.iterations = &iterations;
    worker = std::make_unique<OcpWorker<double>>(batch);
    worker->reserve(batch);
    reset();
  }

  bool has(const std::string& name) const { return parameters.arrays.count(name) > 0; }

  // Up to rounding: the solver would take the mean.
  void check_symmetric(const char* name) const {
    const auto found = parameters.arrays.find(name);
    if (found == parameters.arrays.end()) return;
    const auto& [shape, data] = found->second;
    const Eigen::Index n = shape.back(), stages = static_cast<Eigen::Index>(data.size()) / (n * n);
    for (Eigen::Index k = 0; k < stages; ++k) {
      const ConstRowMatrixMap M(data.data() + k * n * n, n, n);
      if ((M - M.transpose()).cwiseAbs().maxCoeff() > 1e-10 * M.cwiseAbs().maxCoeff())
        fail(std::string("the array ") + name + " is not symmetric");
    }
  }

  void bind(const Argument& argument) {
    const auto found = parameters.arrays.find(argument.name);
    if (found == parameters.arrays.end()) return;
    const ParameterArray& array = found->second;
    const std::string name = argument.name;
    check_range(argument.name, array.data, argument.range);
    StageArray& to = batch.*argument.array;
    to.data = array.data.data();
    if (array.shape == argument.shape) return;
    const long stages = array.shape.empty() ? 0 : array.shape[0];
    std::vector<long> shape = argument.shape;
    shape.insert(shape.begin(), stages);
    // Without one of its own, the last stage has the cost of the others.
    const long most = argument.stages + argument.more;
    const long least = (name == "Q" || name == "q") && !has(name + "_N") ? most : argument.stages;
    if (array.shape != shape || argument.stages == 0 || stages < least || stages > most) {
      shape[0] = least;
      fail("the array " + name + " has shape " + shape_text(array.shape) + ", expected " + shape_text(argument.shape) +
           (argument.stages > 0 ? " or " + shape_text(shape) : ""));
    }
    to.stage = static_cast<long>(array.data.size()) / stages;
    // A box of the states with N stages begins at the first that has one.
    const bool box = argument.array == &OcpBatch::x_lower || argument.array == &OcpBatch::x_upper;
    if (box && stages == batch.dims.horizon) to.first = 1;
  }

  // Linear costs of their own for every stage, so that the reference can be changed.
  void spread_reference() {
    const auto& [N, nx, nu, rows, terminal] = batch.dims;
    for (auto* array : {&slope, &own_slope}) array->assign(static_cast<std::size_t>(N + 1) * nx, 0.0);
    for (int k = 0; k <= N; ++k)
      if (const double* q = batch.state_slope(k).at(0, k)) std::copy_n(q, nx, own_slope.data() + k * nx);
    slope = own_slope;
    batch.q = {slope.data(), 0, nx};
    batch.q_N = {slope.data() + N * nx, 0, 0};
  }

  void set_reference(const double* r) {
    const auto& [N, nx, nu, rows, terminal] = batch.dims;
    const Eigen::Index m = model_nx;
    for (int k = 0; k <= N; ++k) {
      const double* Q = batch.state_cost(k).at(0, k);
      if (Q == nullptr) continue;
      for (Eigen::Index i = 0; i < nx; ++i)
        slope[k * nx + i] =
            own_slope[k * nx + i] -
            ConstVectorMap(Q + i * nx, m).dot(ConstVectorMap(r, m) - ConstVectorMap(reference.data(), m));
    }
  }

  void reset() {
    for (PlanField& field : fields) std::fill(field.plan.begin(), field.plan.end(), 0.0);
    std::fill(pending.begin(), pending.end(), 0.0);
    std::fill(previous(), previous() + (batch.dims.nx - model_nx), 0.0);
    ticked = warm = false;
  }

  // Where x0 has the input before; empty unless the controller limits the rate.
  double* previous() { return x0.data() + model_nx; }

  void shift() {
    for (PlanField& field : fields) {
      if (field.stages < 2) continue;
      std::copy(field.plan.begin() + field.size, field.plan.end(), field.plan.begin());
    }
  }

  // x0 from the state now: where the inputs under way will have led.
  void predict(const double* x) {
    const auto& [N, nx, nu, rows, terminal] = batch.dims;
    std::copy_n(x, model_nx, x0.data());
    double* next = fields[0].next.data();
    for (std::size_t d = 0; d < pending.size(); d += nu) {
      VectorMap to(next, nx);
      to.noalias() = ConstRowMatrixMap(batch.A.at(0, 0), nx, nx) * ConstVectorMap(x0.data(), nx);
      to.noalias() += ConstRowMatrixMap(batch.B.at(0, 0), nx, nu) * ConstVectorMap(pending.data() + d, nu);
      if (batch.c.data != nullptr) to += ConstVectorMap(batch.c.at(0, 0), nx);
      std::copy_n(next, nx, x0.data());
    }
  }

  const double* tick(const double* x) {
    const int nu = batch.dims.nu;
    if (ticked) {  // the input sent at the tick before
      const double* sent = fields[1].plan.data();
      std::copy_n(sent, batch.dims.nx - model_nx, previous());
      if (!pending.empty()) {
        std::copy(pending.begin() + nu, pending.end(), pending.begin());
        std::copy_n(sent, nu, pending.end() - nu);
      }
      shift();
    }
    predict(x);
    std::copy(x0.begin(), x0.end(), fields[0].plan.begin());
    for (PlanField& field : fields) field.next = field.plan;
    worker->solve(batch, 0, 1, settings, warm, out);
    ticked = true;
    if (status <= static_cast<long long>(Status::CLOSEST_FEASIBLE)) {
      for (PlanField& field : fields) field.plan = field.next;
      warm = true;
    }
    return fields[1].plan.data();
  }

  const ParameterFiles parameters;
  OcpBatch batch;
  Settings settings;
  int model_nx = 0;
  double period = 0.0;
  std::vector<double> x0, pending, reference, slope, own_slope, shifts;
  std::vector<PlanField> fields;
  OcpBatchSolution out;
  double objective = 0.0, primal_residual = 0.0, dual_residual = 0.0, duality_gap = 0.0;
  long long status = static_cast<long long>(Status::NUMERICAL_ERROR), iterations = 0;
  std::unique_ptr<OcpWorker<double>> worker;
  bool ticked = false, warm = false;  // there is a plan to start from
};

LinearMpc::LinearMpc(const ParameterFiles& parameters) {
  try {
    implementation_ = std::make_unique<Implementation>(parameters);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error((parameters.folder.empty() ? "" : parameters.folder + ": ") + error.what());
  }
}
LinearMpc::~LinearMpc() = default;

int LinearMpc::horizon() const { return implementation_->batch.dims.horizon; }
int LinearMpc::nx() const { return implementation_->model_nx; }
int LinearMpc::nu() const { return implementation_->batch.dims.nu; }
double LinearMpc::period() const { return implementation_->period; }
const double* LinearMpc::tick(const double* x) { return implementation_->tick(x); }
void LinearMpc::reset() { implementation_->reset(); }
void LinearMpc::set_reference(const double* r) { implementation_->set_reference(r); }
Settings& LinearMpc::settings() { return implementation_->settings; }
Status LinearMpc::status() const { return static_cast<Status>(implementation_->status); }
int LinearMpc::iterations() const { return static_cast<int>(implementation_->iterations); }
const double* LinearMpc::inputs() const { return implementation_->fields[1].plan.data(); }
const double* LinearMpc::state(int k) const {
  if (k < 0 || k > horizon())
    throw std::out_of_range("k is " + std::to_string(k) + ", expected 0 to " + std::to_string(horizon()));
  return implementation_->fields[0].plan.data() + k * implementation_->batch.dims.nx;
}

}  // namespace qp_control
