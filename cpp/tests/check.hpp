// The least a test needs: named facts, checks that count, an exit code.
#pragma once

#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

struct Fact {
  std::string name;
  std::function<void()> body;
};

inline std::vector<Fact>& facts() {
  static std::vector<Fact> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

inline void check(bool holds, const char* what) {
  if (holds) return;
  ++failures();
  std::printf("    does not hold: %s\n", what);
}

inline void check_close(double a, double b, double tolerance, const char* what) {
  if (std::abs(a - b) <= tolerance) return;
  ++failures();
  std::printf("    %s: %.17g and %.17g differ by more than %g\n", what, a, b, tolerance);
}

struct Register {
  Register(std::string name, std::function<void()> body) { facts().push_back({std::move(name), std::move(body)}); }
};

inline int run_facts() {
  for (const Fact& fact : facts()) {
    const int before = failures();
    fact.body();
    std::printf("%s %s\n", failures() == before ? "ok  " : "FAIL", fact.name.c_str());
  }
  std::printf("%zu facts, %d checks failed\n", facts().size(), failures());
  return failures() == 0 ? 0 : 1;
}
