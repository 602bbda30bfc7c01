#include "../src/nonlinear_mpc/convex_stages.hpp"

#include "arrays.hpp"

using namespace qp_control;

void bind_convex_stages(py::module_& m) {
  m.def(
      "convex_stages",
      [](const Array& hessian, const Array& last, const Array& AB, const Array& size, int threads, bool repair) {
        if (AB.ndim() != 4) throw py::value_error("[A B] has rank " + std::to_string(AB.ndim()) + ", expected 4");
        const py::ssize_t B = AB.shape(0), N = AB.shape(1), nx = AB.shape(2), n = AB.shape(3);
        if (n < nx || hessian.size() != B * N * n * n || last.size() != B * nx * nx || size.size() != B)
          throw py::value_error("hessian, last and size do not fit [A B] (B, N, nx, nx + nu)");
        Array stages({B, N, n, n}), M({B, N + 1, nx, nx});
        py::array_t<bool> good(B);
        const double *h = hessian.data(), *l = last.data(), *d = AB.data(), *s = size.data();
        double *to_stages = stages.mutable_data(), *to_M = M.mutable_data();
        bool* to_good = good.mutable_data();
        ConvexStagesSettings settings;
        settings.repair = repair;
        {
          py::gil_scoped_release release;
          convex_stages(static_cast<int>(B), static_cast<int>(N), static_cast<int>(nx), static_cast<int>(n - nx), h, l,
                        d, s, settings, threads, to_stages, to_M, to_good);
        }
        return py::make_tuple(stages, M, good);
      },
      py::arg("hessian"), py::arg("last"), py::arg("AB"), py::arg("size"), py::arg("threads") = 0,
      py::arg("repair") = false);
}
