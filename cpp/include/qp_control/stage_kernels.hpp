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

// out = sum_i z_i A_i, from pack `begin` on, A_i the m vectors of A.
inline void combine(const double* A, int m, int n, int stride, const double* z, int begin, double* out) {
  dense_detail::for_packs(begin, packs(n), [&](int p, auto size) {
    Pack even[size], odd[size];  // two sums, which do not wait for each other
    for (int a = 0; a < size; ++a) even[a] = odd[a] = 0.0;
    const auto add = [&](int i, Pack* s) {
      for (int a = 0; a < size; ++a) s[a] += load(A + i * stride + (p + a) * lanes) * Pack(z[i]);
    };
    for (int i = 0; i + 1 < m; i += 2) {
      add(i, even);
      add(i + 1, odd);
    }
    if (m % 2 != 0) add(m - 1, even);
    for (int a = 0; a < size; ++a) store(even[a] + odd[a], out + (p + a) * lanes);
  });
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
  combine(H, n, n, stride, x, 0, out);
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

// See dense_kernels.hpp.
inline void forward_part(const Pack* L, const Pack* inverse, int first, int n, int, Pack* b) {
  for (int i = 0; i < n; ++i) {
    Pack s = b[i];
    const int end = i < first ? i : first;
    for (int k = 0; k < end; ++k) s -= L[i * n + k] * b[k];
    b[i] = i < first ? s * inverse[i] : s;
  }
}
inline void backward_part(const Pack* L, const Pack* inverse, int first, int n, int, Pack* b) {
  for (int j = first - 1; j >= 0; --j) {
    Pack s = b[j];
    for (int i = j + 1; i < n; ++i) s -= L[i * n + j] * b[i];
    b[j] = s * inverse[j];
  }
}

// x_2 <- L_22 L_22' x_2; x has n entries, of which the first do not count. work: n entries.
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
  for (int j0 = first; j0 < n; j0 += 4) {
    const int size = std::min(4, n - j0);
    Pack s[4] = {0.0, 0.0, 0.0, 0.0};
    for (int p = j0 / lanes; p < packs(n); ++p)
      for (int a = 0; a < size; ++a) s[a] += load(L + (j0 + a) * stride + p * lanes) * load(x + p * lanes);
    double sum[4];
    sums_of_lanes(s, sum);
    for (int a = 0; a < size; ++a) work[j0 + a] = diagonal[j0 + a] * x[j0 + a] + sum[a];
  }
  combine(L + first * stride, n - first, n, stride, work + first, first / lanes, x);
  for (int j = first; j < n; ++j) x[j] += diagonal[j] * work[j];
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
  for (int i = 0; i < n - first; ++i)
    dense_detail::for_packs(0, packs(width), [&](int p, auto size) {
      const double *g = G + p * lanes, *column = L + (first + i) * stride + first;
      Pack s[size];
      for (int a = 0; a < size; ++a) s[a] = Pack(diagonal[first + i]) * load(g + i * width_stride + a * lanes);
      for (int k = i + 1; k < n - first; ++k)
        for (int a = 0; a < size; ++a) s[a] += Pack(column[k]) * load(g + k * width_stride + a * lanes);
      for (int a = 0; a < size; ++a) store(s[a], W + i * width_stride + (p + a) * lanes);
    });
}

}  // namespace qp_control
