// Which kernels this processor can run, best first.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

namespace {

std::vector<std::string> usable_kernels() {
  std::vector<std::string> out;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    out.push_back("avx512");
  if (avx2) out.push_back("avx2");
#endif
  out.push_back("generic");
  return out;
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Processor features.";
  m.def("usable_kernels", &usable_kernels, "Names of the solver's kernels that run here, fastest first.");
}
