// Solves batches of awkward problems and holds every answer against its own claims: alone and in batches, in lanes and
// one by one, cold and warm, and their gradients.
//
//     fuzz_solver                 the cases of the test suite
//     fuzz_solver SECONDS [SEED]  cases SEED, SEED + 1, ... for that long
//     fuzz_solver cases N [SEED]  N of them
//     fuzz_solver case SEED       one case, whose problem is printed if it fails
//
// With -DQP_CONTROL_LIBFUZZER and clang's -fsanitize=fuzzer the bytes come from libFuzzer.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "fuzz_claims.hpp"
#include "fuzz_outputs.hpp"
#include "fuzz_problem.hpp"
#include "qp_control/dense_solver.hpp"

using namespace qp_control;

namespace {

struct Case {
  Choices choose;
  FuzzBatch problem;
  Settings settings;
  DenseBatch batch;
  std::vector<Claims> claims;

  Case(const std::uint8_t* data, std::size_t size) : choose(data, size), problem(choose), batch(problem.view()) {
    settings.closest = choose.one_in(2);
    settings.threads = 1 + choose.below(2);
    if (choose.one_in(5)) settings.eps_abs = choose.among({1e-4, 1e-6, 1e-9});
    if (choose.one_in(10)) settings.eps_gap = 1e-6;
    if (choose.one_in(10)) settings.max_iter = 1 + choose.below(100);
    if (choose.one_in(50)) settings.time_limit = 1e-9;
    for (int i = 0; i < batch.size; ++i) claims.emplace_back(batch.at(i), settings, problem.ordinary, problem.even);
  }

  std::string broken();

 private:
  std::string broken_answers(const Outputs& out);
  std::string broken_neighbours(const Outputs& out);
  std::string broken_starts(const Outputs& out);
  std::string broken_gradients(Outputs& out);
};

std::string at(int element, const std::string& claim) {
  return claim.empty() ? claim : "element " + std::to_string(element) + ": not true that " + claim;
}

std::string Case::broken_answers(const Outputs& out) {
  for (int i = 0; i < batch.size; ++i) {
    const std::string claim = claims[i].broken(out.solution(i));
    if (!claim.empty()) return at(i, claim);
  }
  return "";
}

std::string Case::broken_neighbours(const Outputs& out) {
  if (settings.time_limit > 0.0) return "";  // the clock is not the same
  for (int i = 0; i < batch.size; ++i)
    if (!out.same(i, solve(problem.element(i), settings), 0)) return at(i, "it is the same alone");
  return "";
}

// Both are definite answers of ordinary problems: the same kind of answer and the same objective.
std::string Case::broken_starts(const Outputs& out) {
  Outputs start(batch.dims, batch.size);
  const double size = choose.among({1.0, 1e3, 1e8, std::numeric_limits<double>::quiet_NaN()});
  for (int f = 0; f < 4; ++f)
    for (double& value : start.values[f]) value = size * choose.real();
  const Outputs warm = solve(batch, settings, &start);
  const std::string claim = broken_answers(warm);
  if (!claim.empty()) return "warm, " + claim;
  DenseSolver solver(batch.dims);
  for (int i = 0; i < batch.size; ++i) {
    Solution alone(batch.dims.n, batch.dims.rows());
    solver.solve(batch.at(i), settings, Deadline(settings.time_limit), false, alone);
    const std::string one_by_one = claims[i].broken(alone);
    if (!one_by_one.empty()) return "not in lanes, " + at(i, one_by_one);
    const Solution reference = out.solution(i);
    if (!problem.even || settings.max_iter < 1000 || settings.time_limit > 0.0) continue;
    for (const Solution& other : {alone, warm.solution(i)}) {
      if (!has_solution(reference.status) || !has_solution(other.status)) continue;
      if (reference.status != other.status) return at(i, "every start leads to the same status");
      // Both objectives are off by eps_abs times multipliers and variables.
      const double sizes =
          reference.x.lpNorm<1>() + reference.z.lpNorm<1>() + other.x.lpNorm<1>() + other.z.lpNorm<1>();
      if (std::abs(reference.objective - other.objective) > 10.0 * settings.eps_abs * (1.0 + sizes))
        return at(i, "every start leads to the same objective");
    }
  }
  return "";
}

std::string Case::broken_gradients(Outputs& out) {
  Outputs loss(batch.dims, batch.size);
  for (auto& values : loss.values)
    for (double& value : values) value = choose.real();
  const Gradients each = differentiate(batch, out, loss, false);
  for (int i = 0; i < batch.size; ++i) {
    const bool solution = has_solution(out.solution(i).status);
    double largest = 0.0;
    for (int f = 0; f < Gradients::fields; ++f) {
      const ConstVectorMap gradient(each.values[f].data() + i * each.width[f], each.width[f]);
      largest = std::max(largest, norm_inf(gradient));
      if (std::isnan(norm_inf(gradient))) largest = std::numeric_limits<double>::infinity();
    }
    if (!solution && largest != 0.0) return at(i, "what has no solution adds nothing to gradients");
    const bool flagged = !(each.residual[i] <= 1e-6);
    if (solution && !std::isfinite(largest) && (problem.ordinary || !flagged)) return at(i, "gradient is finite");
    Outputs alone = solve(problem.element(i), settings), lone_loss(batch.dims, 1);
    if (settings.time_limit > 0.0) continue;
    for (int f = 0; f < Outputs::fields; ++f)
      Eigen::Map<Vector>(lone_loss.values[f].data(), loss.width[f]) = loss.block(f, i);
    const Gradients one = differentiate(problem.element(i), alone, lone_loss, false);
    for (int f = 0; f < Gradients::fields; ++f)
      for (long k = 0; k < each.width[f]; ++k) {
        const double a = each.values[f][i * each.width[f] + k], b = one.values[f][k];
        if (a != b && !(std::isnan(a) && std::isnan(b))) return at(i, "its gradient is the same alone");
      }
  }
  const Gradients shared = differentiate(batch, out, loss, true);
  for (int f = 0; f < Gradients::fields; ++f)
    for (long k = 0; k < shared.width[f]; ++k) {
      double sum = 0.0, size = 0.0;
      for (int i = 0; i < batch.size; ++i) {
        sum += each.values[f][i * shared.width[f] + k];
        size += std::abs(each.values[f][i * shared.width[f] + k]);
      }
      if (std::isfinite(size) && !(std::abs(shared.values[f][k] - sum) <= claims_detail::unit * size))
        return "not true that a shared gradient is the sum";
    }
  return "";
}

std::string Case::broken() {
  Outputs out = solve(batch, settings);
  for (const auto& check : {&Case::broken_answers, &Case::broken_neighbours, &Case::broken_starts}) {
    const std::string claim = (this->*check)(out);
    if (!claim.empty()) return claim;
  }
  return broken_gradients(out);
}

void print(const char* name, const double* values, long count) {
  if (values == nullptr) return;
  std::printf("%s ", name);
  for (long i = 0; i < count; ++i) std::printf("%s%.17g", i == 0 ? "" : ",", values[i]);
  std::printf("\n");
}

// One line per array of every element, row by row.
void print(const Case& failed) {
  const Outputs out = solve(failed.batch, failed.settings);
  const Settings& s = failed.settings;
  std::printf("closest %d eps_abs %g eps_gap %g max_iter %d time_limit %g ordinary %d even %d\n", s.closest, s.eps_abs,
              s.eps_gap, s.max_iter, s.time_limit, failed.problem.ordinary, failed.problem.even);
  for (int i = 0; i < failed.batch.size; ++i) {
    const DenseQP qp = failed.batch.at(i);
    const auto [n, n_eq, n_in] = qp.dims;
    std::printf("element %d n %d n_eq %d n_in %d\n", i, n, n_eq, n_in);
    print("H", qp.H, n * n);
    print("g", qp.g, n);
    print("A", qp.A, n_eq * n);
    print("b", qp.b, n_eq);
    print("C", qp.C, n_in * n);
    print("l", qp.l, n_in);
    print("u", qp.u, n_in);
    print("lb", qp.lb, n);
    print("ub", qp.ub, n);
    print("weight_eq", qp.weight_eq, n_eq);
    print("weight_in", qp.weight_in, n_in);
    print("weight_box", qp.weight_box, n);
    const Solution answer = out.solution(i);
    std::printf("status %d iterations %d residuals %g %g gap %g\n", static_cast<int>(answer.status), answer.iterations,
                answer.primal_residual, answer.dual_residual, answer.duality_gap);
    print("x", answer.x.data(), n);
    print("multipliers", answer.z.data(), qp.dims.rows());
    print("shift_lower", answer.shift_lower.data(), qp.dims.rows());
    print("shift_upper", answer.shift_upper.data(), qp.dims.rows());
    print("ray", answer.certificate_x.data(), n);
  }
}

std::vector<std::uint8_t> bytes_of(std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<std::uint8_t> bytes(1 << 15);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(generator() >> 32);
  return bytes;
}

// How often each status was seen, and what the answers were made to say that is not true.
struct Census {
  long cases = 0, problems = 0, statuses[9] = {}, lies = 0;

  // An answer with something wrong in it must be caught.
  std::string believed(const Claims& claims, const Settings& settings, const Solution& answer) {
    const auto caught = [&](const char* lie, const auto& tell) -> std::string {
      Solution told = answer;
      if (!tell(told)) return "";
      ++lies;
      return claims.broken(told).empty() ? std::string("believed: ") + lie : "";
    };
    std::string out;
    const auto tell = [&](const char* lie, const auto& change) {
      if (out.empty()) out = caught(lie, change);
    };
    const int n = static_cast<int>(answer.x.size()), rows = static_cast<int>(answer.z.size());
    const double moved = 10.0 * settings.eps_abs + 1e-6, lied = 100.0 * settings.eps_abs;
    if (has_solution(answer.status)) {
      tell("NaN in x", [&](Solution& s) { return n > 0 && (s.x[n - 1] = NAN, true); });
      tell("another objective", [&](Solution& s) { return s.objective += 1e-3 * (1.0 + std::abs(s.objective)), true; });
      tell("a smaller residual", [&](Solution& s) { return s.primal_residual = s.dual_residual = -1.0, rows > 0; });
      tell("a multiplier of the other sign", [&](Solution& s) {
        for (int i = 0; i < rows; ++i)
          if (std::abs(s.z[i]) > moved) return s.z[i] = -s.z[i], true;
        return false;
      });
      tell("no solution but a proof", [&](Solution& s) {
        s.status = Status::PRIMAL_INFEASIBLE;
        s.certificate_z = answer.z;
        return norm_inf(answer.z) > 0.0;
      });
    }
    if (answer.status == Status::CLOSEST_FEASIBLE) {
      tell("the unshifted problem is solved", [&](Solution& s) {
        s.status = Status::SOLVED;
        const double largest = std::max(norm_inf(s.shift_lower), norm_inf(s.shift_upper));
        s.shift_lower.setZero();
        s.shift_upper.setZero();
        return largest > moved;
      });
      tell("one row takes more of the shift", [&](Solution& s) {
        for (Vector* shift : {&s.shift_lower, &s.shift_upper})
          for (int i = 0; i < rows; ++i)
            if ((*shift)[i] > moved) return (*shift)[i] += lied * (1.0 + (*shift)[i]), true;
        return false;
      });
    }
    if (answer.status == Status::PRIMAL_INFEASIBLE && norm_inf(answer.certificate_z) > 0.0)
      tell("a Farkas vector of the other sign", [](Solution& s) { return s.certificate_z = -s.certificate_z, true; });
    if (answer.status == Status::DUAL_INFEASIBLE) {
      tell("a ray uphill", [](Solution& s) { return s.certificate_x = -s.certificate_x, true; });
      tell("a solution where there is none", [&](Solution& s) { return s.status = Status::SOLVED, true; });
    }
    if (answer.status == Status::NON_CONVEX || answer.status == Status::INVALID_INPUT)
      tell("a saddle is a solution", [&](Solution& s) {
        s.status = Status::SOLVED;
        for (Vector* v : {&s.x, &s.z, &s.shift_lower, &s.shift_upper}) v->setZero();
        return true;
      });
    return out;
  }
};

bool run(std::uint64_t seed, Census& census) {
  const std::vector<std::uint8_t> bytes = bytes_of(seed);
  Case one(bytes.data(), bytes.size());
  std::string claim = one.broken();
  const Outputs out = solve(one.batch, one.settings);
  ++census.cases;
  census.problems += one.batch.size;
  for (int i = 0; i < one.batch.size; ++i) {
    ++census.statuses[out.status[i]];
    if (claim.empty() && one.problem.ordinary)
      claim = at(i, census.believed(one.claims[i], one.settings, out.solution(i)));
  }
  if (claim.empty()) return true;
  std::printf("FAIL case %llu, %s\n", static_cast<unsigned long long>(seed), claim.c_str());
  return false;
}

}  // namespace

#ifdef QP_CONTROL_LIBFUZZER

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Case one(data, size);
  const std::string claim = one.broken();
  if (claim.empty()) return 0;
  std::printf("%s\n", claim.c_str());
  print(one);
  std::abort();
}

#else

int main(int count, char** arguments) {
  using Clock = std::chrono::steady_clock;
  Census census;
  if (count == 3 && std::strcmp(arguments[1], "case") == 0) {
    const std::uint64_t seed = std::strtoull(arguments[2], nullptr, 10);
    if (run(seed, census)) return 0;
    const std::vector<std::uint8_t> bytes = bytes_of(seed);
    print(Case(bytes.data(), bytes.size()));
    return 1;
  }
  const bool counted = count > 2 && std::strcmp(arguments[1], "cases") == 0;
  const std::uint64_t cases = counted ? std::strtoull(arguments[2], nullptr, 10) : 1500;
  const double seconds = count > 1 && !counted ? std::atof(arguments[1]) : 0.0;
  const int seed_at = counted ? 3 : 2;
  const std::uint64_t first = count > seed_at ? std::strtoull(arguments[seed_at], nullptr, 10) : 0;
  if (count > 1 && !(counted ? cases > 0 : seconds > 0.0)) {
    std::printf("fuzz_solver [SECONDS [SEED] | cases N [SEED] | case SEED]\n");
    return 2;
  }
  const auto start = Clock::now();
  long failed = 0;
  for (std::uint64_t seed = first;; ++seed) {
    const double passed = std::chrono::duration<double>(Clock::now() - start).count();
    if (seconds > 0.0 ? passed > seconds : seed - first >= cases) break;
    failed += !run(seed, census);
  }
  const char* const names[] = {"SOLVED",     "CLOSEST_FEASIBLE",  "MAX_ITER",
                               "TIME_LIMIT", "PRIMAL_INFEASIBLE", "DUAL_INFEASIBLE",
                               "NON_CONVEX", "INVALID_INPUT",     "NUMERICAL_ERROR"};
  for (int k = 0; k < 9; ++k) std::printf("%8ld %s\n", census.statuses[k], names[k]);
  std::printf("%ld cases, %ld problems, %ld lies caught, %ld cases failed\n", census.cases, census.problems,
              census.lies, failed);
  return failed == 0 ? 0 : 1;
}

#endif
