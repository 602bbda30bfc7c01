// Dense linear algebra in lanes: row-major matrices of packs, lower triangles. Small tiles of the result stay in
// registers while a product runs.
#pragma once

#include <cstring>

#include "qp_control/pack.hpp"

namespace qp_control {

// Tile side: a tile and the operands of one update fit into the vector registers.
constexpr int tile = lanes == 8 ? 4 : 3;

namespace lane_detail {

// S(a, b) += sum_k P[k * p_step + a * p_row] Q[k * q_step + b * q_row]
template <int A, int B>
inline void accumulate(int count, const Pack* P, int p_row, const Pack* Q, int q_row, Pack (&S)[A][B]) {
  for (int k = 0; k < count; ++k) {
    Pack q[B];
    for (int b = 0; b < B; ++b) q[b] = Q[k + b * q_row];
    for (int a = 0; a < A; ++a) {
      const Pack p = P[k + a * p_row];
      for (int b = 0; b < B; ++b) S[a][b] += p * q[b];
    }
  }
}

template <int A, int B>
void gram_tile(int count, const Pack* const* weighted, const Pack* const* rows, int i0, int j0, Pack* M, int n) {
  Pack S[A][B];
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < B; ++b) S[a][b] = M[(i0 + a) * n + j0 + b];
  for (int k = 0; k < count; ++k) {
    const Pack *w = weighted[k] + i0, *r = rows[k] + j0;
    for (int a = 0; a < A; ++a)
      for (int b = 0; b < B; ++b) S[a][b] += w[a] * r[b];
  }
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < B; ++b) M[(i0 + a) * n + j0 + b] = S[a][b];
}

// Rows i0..i0+A of the factor, columns j0..j0+B left of the diagonal block.
template <int A, int B>
void factor_tile(const Pack* M, Pack* L, const Pack* inverse_diagonal, int n, int i0, int j0) {
  Pack S[A][B];
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < B; ++b) S[a][b] = 0.0;
  accumulate<A, B>(j0, L + i0 * n, n, L + j0 * n, n, S);
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < B; ++b) {
      Pack s = M[(i0 + a) * n + j0 + b] - S[a][b];
      for (int c = 0; c < b; ++c) s -= L[(i0 + a) * n + j0 + c] * L[(j0 + b) * n + j0 + c];
      L[(i0 + a) * n + j0 + b] = s * inverse_diagonal[j0 + b];
    }
}

template <int A>
Mask factor_diagonal(const Pack* M, Pack* L, Pack* inverse_diagonal, int n, int i0) {
  Pack S[A][A];
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < A; ++b) S[a][b] = 0.0;
  accumulate<A, A>(i0, L + i0 * n, n, L + i0 * n, n, S);
  Mask definite = Mask::all(true);
  for (int a = 0; a < A; ++a)
    for (int b = 0; b <= a; ++b) {
      Pack s = M[(i0 + a) * n + i0 + b] - S[a][b];
      for (int c = 0; c < b; ++c) s -= L[(i0 + a) * n + i0 + c] * L[(i0 + b) * n + i0 + c];
      if (a == b) {
        const Mask positive = s > Pack(0.0);
        definite = definite & positive;
        inverse_diagonal[i0 + a] = Pack(1.0) / sqrt(select(positive, s, 1.0));
      } else {
        L[(i0 + a) * n + i0 + b] = s * inverse_diagonal[i0 + b];
      }
    }
  return definite;
}

// Swaps the off-diagonal halves of pairs of blocks of size `distance`.
template <int distance>
inline void transpose_blocks(PackData (&rows)[lanes]) {
  MaskData low, high;
  for (int lane = 0; lane < lanes; ++lane) {
    low[lane] = (lane & distance) != 0 ? lane - distance + lanes : lane;
    high[lane] = (lane & distance) != 0 ? lane + lanes : lane + distance;
  }
  for (int i = 0; i < lanes; ++i) {
    if ((i & distance) != 0) continue;
    const PackData a = rows[i], b = rows[i + distance];
    rows[i] = shuffle(a, b, low);
    rows[i + distance] = shuffle(a, b, high);
  }
}

inline void transpose(PackData (&rows)[lanes]) {
  transpose_blocks<1>(rows);
  if constexpr (lanes > 2) transpose_blocks<2>(rows);
  if constexpr (lanes > 4) transpose_blocks<4>(rows);
}

// Calls body with the size of a tile as a compile-time constant.
template <class Body>
inline void with_size(int size, const Body& body) {
  switch (size) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
    default:
      return body(std::integral_constant<int, 4>());
  }
}

}  // namespace lane_detail

// M += sum_k weighted_k rows_k'
inline void add_outer_products(int count, const Pack* const* weighted, const Pack* const* rows, Pack* M, int n) {
  using namespace lane_detail;
  for (int i0 = 0; i0 < n; i0 += tile)
    with_size(std::min(tile, n - i0), [&](auto a) {
      for (int j0 = 0; j0 < i0; j0 += tile) gram_tile<a, tile>(count, weighted, rows, i0, j0, M, n);
      gram_tile<a, a>(count, weighted, rows, i0, i0, M, n);
    });
}

// L L' = M without the diagonal of L, whose inverse is kept. The lanes where M is not positive definite come back
// false, with numbers that mean nothing.
inline Mask cholesky(const Pack* M, Pack* L, Pack* inverse_diagonal, int n) {
  using namespace lane_detail;
  Mask definite = Mask::all(true);
  for (int i0 = 0; i0 < n; i0 += tile)
    with_size(std::min(tile, n - i0), [&](auto a) {
      for (int j0 = 0; j0 < i0; j0 += tile) factor_tile<a, tile>(M, L, inverse_diagonal, n, i0, j0);
      definite = definite & factor_diagonal<a>(M, L, inverse_diagonal, n, i0);
    });
  return definite;
}

// out = A x, A of size m x n
inline void multiply(const Pack* A, int m, int n, const Pack* x, Pack* out) {
  for (int i0 = 0; i0 < m; i0 += 4)
    lane_detail::with_size(std::min(4, m - i0), [&](auto size) {
      Pack s[size];
      for (int a = 0; a < size; ++a) s[a] = 0.0;
      for (int j = 0; j < n; ++j)
        for (int a = 0; a < size; ++a) s[a] += A[(i0 + a) * n + j] * x[j];
      for (int a = 0; a < size; ++a) out[i0 + a] = s[a];
    });
}

// out += A'z, A of size m x n, with `stride` between its rows
inline void add_transposed(const Pack* A, int m, int n, int stride, const Pack* z, Pack* out) {
  for (int i0 = 0; i0 < m; i0 += 4)
    lane_detail::with_size(std::min(4, m - i0), [&](auto size) {
      for (int j = 0; j < n; ++j) {
        Pack s = out[j];
        for (int a = 0; a < size; ++a) s += A[(i0 + a) * stride + j] * z[i0 + a];
        out[j] = s;
      }
    });
}

// b <- (L L')^-1 b
inline void cholesky_solve(const Pack* L, const Pack* inverse_diagonal, int n, Pack* b) {
  using namespace lane_detail;
  for (int i0 = 0; i0 < n; i0 += 4)
    with_size(std::min(4, n - i0), [&](auto size) {
      Pack s[size];
      for (int a = 0; a < size; ++a) s[a] = b[i0 + a];
      for (int k = 0; k < i0; ++k)
        for (int a = 0; a < size; ++a) s[a] -= L[(i0 + a) * n + k] * b[k];
      for (int a = 0; a < size; ++a) {
        for (int c = 0; c < a; ++c) s[a] -= L[(i0 + a) * n + i0 + c] * b[i0 + c];
        b[i0 + a] = s[a] * inverse_diagonal[i0 + a];
      }
    });
  for (int end = n; end > 0;) {
    const int size_here = end % 4 == 0 ? 4 : end % 4, i0 = end - size_here;
    with_size(size_here, [&](auto size) {
      Pack minus[size];
      for (int a = size - 1; a >= 0; --a) {
        for (int c = a + 1; c < size; ++c) b[i0 + a] -= L[(i0 + c) * n + i0 + a] * b[i0 + c];
        b[i0 + a] *= inverse_diagonal[i0 + a];
      }
      for (int a = 0; a < size; ++a) minus[a] = -b[i0 + a];
      add_transposed(L + i0 * n, size, i0, n, minus, b);
    });
    end = i0;
  }
}

// Numbers of an array per lane, and back: blocks of lanes x lanes numbers are transposed in registers.
inline void gather_lanes(const double* const (&from)[lanes], long size, Pack* out) {
  long k = 0;
  for (; k + lanes <= size; k += lanes) {
    PackData block[lanes];
    for (int lane = 0; lane < lanes; ++lane) std::memcpy(&block[lane], from[lane] + k, sizeof(PackData));
    lane_detail::transpose(block);
    for (int i = 0; i < lanes; ++i) out[k + i] = block[i];
  }
  for (; k < size; ++k)
    for (int lane = 0; lane < lanes; ++lane) out[k].v[lane] = from[lane][k];
}

// To the arrays that are not nullptr.
inline void store_lanes(const Pack* from, long size, double* const (&to)[lanes]) {
  long k = 0;
  for (; k + lanes <= size; k += lanes) {
    PackData block[lanes];
    for (int i = 0; i < lanes; ++i) block[i] = from[k + i].v;
    lane_detail::transpose(block);
    for (int lane = 0; lane < lanes; ++lane) {
      if (to[lane] != nullptr) std::memcpy(to[lane] + k, &block[lane], sizeof(PackData));
    }
  }
  for (; k < size; ++k)
    for (int lane = 0; lane < lanes; ++lane)
      if (to[lane] != nullptr) to[lane][k] = from[k].v[lane];
}

inline void store_lane(const Pack* from, long size, int lane, double* to) {
  for (long k = 0; k < size; ++k) to[k] = from[k].v[lane];
}

}  // namespace qp_control
