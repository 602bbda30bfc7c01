// What a Riccati recursion does on one stage, with a factor L of order n whose first `first` unknowns are eliminated:
// in lanes, on row-major matrices of packs (lane_kernels.hpp), and of one problem, on padded ones (dense_kernels.hpp).
// Both keep the diagonal of L apart: `diagonal`, and its inverse.
#pragma once

#include "qp_control/dense_kernels.hpp"
#include "qp_control/lane_kernels.hpp"

namespace qp_control {

// The kernels in lanes have no padding.
inline void add_outer_products(int count, const Pack* const* weighted, const Pack* const* rows, Pack* M, int n, int) {
  add_outer_products(count, weighted, rows, M, n);
}
inline Mask cholesky(const Pack* M, Pack* L, Pack* inverse, int n, int) { return cholesky(M, L, inverse, n); }
inline void cholesky_solve(const Pack* L, const Pack* inverse, int n, int, Pack* b) {
  cholesky_solve(L, inverse, n, b);
}
inline void multiply(const Pack* A, int m, int n, int, const Pack* x, Pack* out) { multiply(A, m, n, x, out); }
inline void add_combination(const Pack* A, int m, int n, int stride, const Pack* z, Pack* out) {
  add_transposed(A, m, n, stride, z, out);
}

// out = H x, H symmetric: in lanes each number of H is read once.
inline void multiply_symmetric(const Pack* H, int n, int, const Pack* x, Pack* out) {
  using lane_detail::with_size;
  for (int j = 0; j < n; ++j) out[j] = 0.0;
  for (int i0 = 0; i0 < n; i0 += 4)
    with_size(std::min(4, n - i0), [&](auto size) {
      Pack s[size], own[size];
      for (int a = 0; a < size; ++a) {
        s[a] = 0.0;
        own[a] = x[i0 + a];
      }
      for (int j = 0; j < i0; ++j) {
        const Pack other = x[j];
        Pack sum = out[j];
        for (int a = 0; a < size; ++a) {
          const Pack h = H[(i0 + a) * n + j];
          s[a] += h * other;
          sum += h * own[a];
        }
        out[j] = sum;
      }
      for (int a = 0; a < size; ++a) {
        for (int b = 0; b < size; ++b) s[a] += H[(i0 + std::max(a, b)) * n + i0 + std::min(a, b)] * own[b];
        out[i0 + a] = s[a];
      }
    });
}
inline void multiply_symmetric(const double* H, int n, int stride, const double* x, double* out) {
  multiply(H, n, n, stride, x, out);
}

// out_y = G x and out_x += G'y, G of size m x n: in lanes each number of G is read once.
inline void multiply_both(const Pack* G, int m, int n, int, const Pack* x, const Pack* y, Pack* out_y, Pack* out_x) {
  using lane_detail::with_size;
  for (int i0 = 0; i0 < m; i0 += 4)
    with_size(std::min(4, m - i0), [&](auto size) {
      Pack s[size], own[size];
      for (int a = 0; a < size; ++a) {
        s[a] = 0.0;
        own[a] = y[i0 + a];
      }
      for (int j = 0; j < n; ++j) {
        const Pack other = x[j];
        Pack sum = out_x[j];
        for (int a = 0; a < size; ++a) {
          const Pack g = G[(i0 + a) * n + j];
          s[a] += g * other;
          sum += g * own[a];
        }
        out_x[j] = sum;
      }
      for (int a = 0; a < size; ++a) out_y[i0 + a] = s[a];
    });
}
inline void multiply_both(const double* G, int m, int n, int stride, const double* x, const double* y, double* out_y,
                          double* out_x) {
  multiply(G, m, n, stride, x, out_y);
  add_combination(G, m, n, stride, y, out_x);
}

// Forward substitution with the first columns: b_1 <- L_11^-1 b_1, b_2 <- b_2 - L_21 b_1.
inline void forward_part(const Pack* L, const Pack* inverse, int first, int n, int, Pack* b) {
  for (int i = 0; i < n; ++i) {
    Pack s = b[i];
    const int end = i < first ? i : first;
    for (int k = 0; k < end; ++k) s -= L[i * n + k] * b[k];
    b[i] = i < first ? s * inverse[i] : s;
  }
}
inline void forward_part(const double* L, const double* inverse, int first, int n, int stride, double* b) {
  for (int j = 0; j < first; ++j) {
    const double s = b[j] * inverse[j];
    const double* column = L + j * stride;
    for (int p = j / lanes; p < packs(n); ++p)
      store(load(b + p * lanes) - load(column + p * lanes) * Pack(s), b + p * lanes);
    b[j] = s;
  }
}

// Back substitution with the first columns: b_1 <- L_11'^-1 (b_1 - L_21' b_2).
inline void backward_part(const Pack* L, const Pack* inverse, int first, int n, int, Pack* b) {
  for (int j = first - 1; j >= 0; --j) {
    Pack s = b[j];
    for (int i = j + 1; i < n; ++i) s -= L[i * n + j] * b[i];
    b[j] = s * inverse[j];
  }
}
inline void backward_part(const double* L, const double* inverse, int first, int n, int stride, double* b) {
  for (int j = first - 1; j >= 0; --j) {
    const double* column = L + j * stride;
    Pack s = 0.0;
    for (int p = j / lanes; p < packs(n); ++p) s += load(column + p * lanes) * load(b + p * lanes);
    b[j] = (b[j] - sum_of_lanes(s)[0]) * inverse[j];
  }
}

// x_2 <- L_22 L_22' x_2; x has n entries, of which the first are not touched. work: n entries.
inline void multiply_corner(const Pack* L, const Pack* diagonal, int first, int n, int, Pack* x, Pack*) {
  for (int j = first; j < n; ++j) {
    Pack s = diagonal[j] * x[j];
    for (int i = j + 1; i < n; ++i) s += L[i * n + j] * x[i];
    x[j] = s;
  }
  for (int i = n - 1; i >= first; --i) {
    Pack s = diagonal[i] * x[i];
    for (int j = first; j < i; ++j) s += L[i * n + j] * x[j];
    x[i] = s;
  }
}
inline void multiply_corner(const double* L, const double* diagonal, int first, int n, int stride, double* x,
                            double* work) {
  for (int p = 0; p < packs(n); ++p) store(load(x + p * lanes), work + p * lanes);
  for (int j = first; j < n; ++j) x[j] = 0.0;
  for (int j = first; j < n; ++j) {
    const double* column = L + j * stride;
    Pack s = 0.0;
    for (int p = j / lanes; p < packs(n); ++p) s += load(column + p * lanes) * load(work + p * lanes);
    const double t = diagonal[j] * work[j] + sum_of_lanes(s)[0];
    for (int p = j / lanes; p < packs(n); ++p)
      store(load(x + p * lanes) + load(column + p * lanes) * Pack(t), x + p * lanes);
    x[j] += diagonal[j] * t;
  }
}

namespace stage_detail {

// Rows i0..i0+A, columns j0..j0+B of W = L_22' G.
template <int A, int B>
void corner_tile(const Pack* L, const Pack* diagonal, int first, int n, const Pack* G, int width, int i0, int j0,
                 Pack* W) {
  const int size = n - first;
  Pack S[A][B];
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < B; ++b) {
      S[a][b] = diagonal[first + i0 + a] * G[(i0 + a) * width + j0 + b];
      for (int k = a + 1; k < A; ++k)
        S[a][b] += L[(first + i0 + k) * n + first + i0 + a] * G[(i0 + k) * width + j0 + b];
    }
  for (int k = i0 + A; k < size; ++k) {
    const Pack *l = L + (first + k) * n + first + i0, *g = G + k * width + j0;
    for (int a = 0; a < A; ++a)
      for (int b = 0; b < B; ++b) S[a][b] += l[a] * g[b];
  }
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < B; ++b) W[(i0 + a) * width + j0 + b] = S[a][b];
}

}  // namespace stage_detail

// W = L_22' G, G and W of size (n - first) x width.
inline void multiply_corner_transposed(const Pack* L, const Pack* diagonal, int first, int n, int, const Pack* G,
                                       int width, int, Pack* W) {
  using namespace lane_detail;
  for (int i0 = 0; i0 < n - first; i0 += tile)
    with_size(std::min(tile, n - first - i0), [&](auto a) {
      for (int j0 = 0; j0 < width; j0 += tile)
        with_size(std::min(tile, width - j0),
                  [&](auto b) { stage_detail::corner_tile<a, b>(L, diagonal, first, n, G, width, i0, j0, W); });
    });
}
inline void multiply_corner_transposed(const double* L, const double* diagonal, int first, int n, int stride,
                                       const double* G, int width, int width_stride, double* W) {
  const int size = n - first;
  for (int i = 0; i < size; ++i) {
    double* row = W + i * width_stride;
    const Pack d = diagonal[first + i];
    for (int p = 0; p < packs(width); ++p) store(d * load(G + i * width_stride + p * lanes), row + p * lanes);
    add_combination(G + (i + 1) * width_stride, size - i - 1, width, width_stride,
                    L + (first + i) * stride + first + i + 1, row);
  }
}

}  // namespace qp_control
