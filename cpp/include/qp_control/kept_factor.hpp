// What a solve leaves for its derivative: the Cholesky factor of its last system, with the scaling and the weights of
// the rows in it (DenseKkt). Plain numbers, so that those of a batch make an array the caller can hold.
#pragma once

#include "qp_control/dense_qp.hpp"

namespace qp_control {

// A view of one element's numbers. Not larger than half of a dense H.
class KeptFactor {
 public:
  static long size(const DenseDims& d) { return 2 + 3 * long(d.n) + 2 * long(d.n_eq + d.n_in) + triangle(d.n); }

  KeptFactor(double* data, int n, int stored_rows)
      : present(data[0]),
        c(data[1]),
        D(data + 2, n),
        E(data + 2 + n, stored_rows),
        weight(data + 2 + n + stored_rows, stored_rows + n),
        inverse_diagonal(data + 2 + 2 * n + 2 * stored_rows, n),
        lower(data + 2 + 3 * n + 2 * stored_rows) {}

  double& present;  // 0: the solve has left nothing, and nothing else is set
  double& c;
  VectorMap D, E, weight, inverse_diagonal;
  double* lower;  // the triangle L, column by column

 private:
  static long triangle(long n) { return n * (n + 1) / 2; }
};

}  // namespace qp_control
