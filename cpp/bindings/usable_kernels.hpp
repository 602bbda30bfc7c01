#pragma once

#include <string>
#include <vector>

namespace qp_control {

// The builds of the solver that this processor can run, best first.
inline std::vector<std::string> usable_kernels() {
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

}  // namespace qp_control
