#pragma once

#include <algorithm>

#include "arrays.hpp"
#include "qp_control/derivatives_batch.hpp"

namespace qp_control {

struct CertificateArrays {
  explicit CertificateArrays(long size) : residual(size), weakly_active(size), rank_deficiency(size) {}
  Array residual;
  IntArray weakly_active, rank_deficiency;
  CertificateBatch views() {
    return {residual.mutable_data(), weakly_active.mutable_data(), rank_deficiency.mutable_data()};
  }
  py::tuple with(const py::tuple& arrays) const {
    double worst = 0.0;  // NaN, without a solution, does not count
    for (py::ssize_t i = 0; i < residual.size(); ++i) worst = std::max(worst, residual.data()[i]);
    return py::make_tuple(arrays, residual, weakly_active, rank_deficiency, worst);
  }
};

}  // namespace qp_control
