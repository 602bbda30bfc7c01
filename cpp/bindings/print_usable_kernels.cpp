// Run while configuring, for QP_CONTROL_NATIVE.
#include <cstdio>

#include "usable_kernels.hpp"

int main() {
  const char* separator = "";
  for (const std::string& name : qp_control::usable_kernels()) {
    std::printf("%s%s", separator, name.c_str());
    separator = ";";
  }
}
