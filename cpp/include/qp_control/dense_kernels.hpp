// Dense linear algebra of one problem, vectorised over its rows: column-major matrices whose columns (or row-major ones
// whose rows) start a multiple of `lanes` numbers apart and are filled up with zeros.
#pragma once

#include "qp_control/pack.hpp"

namespace qp_control {

namespace dense_detail {

constexpr int columns = 4;  // of a tile

// S(a, b) += sign sum_k left_k(rows of pack a) right_k(column b)
template <int sign, int A, class Left, class Right>
inline void accumulate(int count, const Left& left, const Right& right, Pack (&S)[A][columns]) {
  for (int k = 0; k < count; ++k) {
    Pack p[A];
    const double* l = left(k);
    for (int a = 0; a < A; ++a) p[a] = load(l + a * lanes);
    const double* r = right(k);
    for (int b = 0; b < columns; ++b) {
      const Pack q = r[b];
      for (int a = 0; a < A; ++a) S[a][b] = sign > 0 ? S[a][b] + p[a] * q : S[a][b] - p[a] * q;
    }
  }
}

// Calls body(first pack, number of packs as a constant) until all packs from `first` on are covered.
template <class Body>
inline void for_packs(int first, int count, const Body& body) {
  int p = first;
  for (; p + 3 <= count; p += 3) body(p, std::integral_constant<int, 3>());
  if (count - p == 2) body(p, std::integral_constant<int, 2>());
  if (count - p == 1) body(p, std::integral_constant<int, 1>());
}

}  // namespace dense_detail

// Packs that must follow the last of the weighted rows below: tiles are four columns wide, and the last one reads
// beyond its row where a register holds fewer numbers.
constexpr int tile_overhang = packs(dense_detail::columns);

// M += sum_k weighted_k rows_k', lower triangle; columns are padded to a multiple of four.
inline void add_outer_products(int count, const double* const* weighted, const double* const* rows, double* M, int n,
                               int stride) {
  using namespace dense_detail;
  for (int j0 = 0; j0 < n; j0 += columns)
    for_packs(j0 / lanes, packs(n), [&](int p, auto size) {
      Pack S[size][columns];
      double* at = M + p * lanes + j0 * stride;
      for (int a = 0; a < size; ++a)
        for (int b = 0; b < columns; ++b) S[a][b] = load(at + a * lanes + b * stride);
      accumulate<1, size>(
          count, [&](int k) { return rows[k] + p * lanes; }, [&](int k) { return weighted[k] + j0; }, S);
      for (int a = 0; a < size; ++a)
        for (int b = 0; b < columns; ++b) store(S[a][b], at + a * lanes + b * stride);
    });
}

// L L' = M; L keeps zeros on and above its diagonal, whose inverse is kept apart. False: M is not positive definite.
inline bool cholesky(const double* M, double* L, double* inverse_diagonal, int n, int stride) {
  using namespace dense_detail;
  for (int j0 = 0; j0 < n; j0 += columns) {
    const int width = std::min(columns, n - j0);
    for_packs(j0 / lanes, packs(n), [&](int p, auto size) {
      Pack S[size][columns];
      const double* from = M + p * lanes + j0 * stride;
      for (int a = 0; a < size; ++a)
        for (int b = 0; b < columns; ++b) S[a][b] = load(from + a * lanes + b * stride);
      accumulate<-1, size>(
          j0, [&](int k) { return L + p * lanes + k * stride; }, [&](int k) { return L + j0 + k * stride; }, S);
      double* to = L + p * lanes + j0 * stride;
      for (int a = 0; a < size; ++a)
        for (int b = 0; b < columns; ++b) store(S[a][b], to + a * lanes + b * stride);
    });
    double diagonal[columns][columns] = {};
    for (int b = 0; b < width; ++b) {
      for (int a = b; a < width; ++a) {
        double s = L[j0 + a + (j0 + b) * stride];
        for (int c = 0; c < b; ++c) s -= diagonal[a][c] * diagonal[b][c];
        if (a == b && !(s > 0.0)) return false;
        diagonal[a][b] = a == b ? std::sqrt(s) : s * inverse_diagonal[j0 + b];
        if (a == b) inverse_diagonal[j0 + b] = 1.0 / diagonal[a][b];
      }
    }
    for (int p = j0 / lanes; p < packs(n); ++p) {
      double* at = L + p * lanes + j0 * stride;
      Pack column[columns];
      for (int b = 0; b < width; ++b) {
        Pack s = load(at + b * stride);
        for (int c = 0; c < b; ++c) s -= column[c] * Pack(diagonal[b][c]);
        column[b] = s * Pack(inverse_diagonal[j0 + b]);
        store(column[b], at + b * stride);
      }
    }
    for (int b = 0; b < columns; ++b)
      for (int i = j0 / lanes * lanes; i <= j0 + b && i < stride; ++i) L[i + (j0 + b) * stride] = 0.0;
  }
  return true;
}

// b <- (L L')^-1 b, four columns at a time: a small triangle, then the rest of the columns in one pass.
inline void cholesky_solve(const double* L, const double* inverse_diagonal, int n, int stride, double* b) {
  using dense_detail::columns;
  const int count = packs(n);
  const auto entry = [&](int i, int j) { return L[i + j * stride]; };
  double x[columns];
  for (int j0 = 0; j0 < n; j0 += columns) {
    const int width = std::min(columns, n - j0);
    for (int a = 0; a < columns; ++a) {
      if (a >= width) {
        x[a] = 0.0;
        continue;
      }
      x[a] = b[j0 + a];
      for (int c = 0; c < a; ++c) x[a] -= entry(j0 + a, j0 + c) * x[c];
      x[a] *= inverse_diagonal[j0 + a];
    }
    const double* column = L + j0 * stride;
    for (int p = j0 / lanes; p < count; ++p) {
      Pack s = load(b + p * lanes);
      for (int a = 0; a < columns; ++a) s -= load(column + a * stride + p * lanes) * Pack(x[a]);
      store(s, b + p * lanes);
    }
    for (int a = 0; a < width; ++a) b[j0 + a] = x[a];  // the pass went over the triangle too
  }
  for (int j0 = (n - 1) / columns * columns; j0 >= 0; j0 -= columns) {
    const int width = std::min(columns, n - j0);
    const double* column = L + j0 * stride;
    Pack s[columns] = {0.0, 0.0, 0.0, 0.0};
    for (int p = j0 / lanes; p < count; ++p)
      for (int a = 0; a < columns; ++a) s[a] += load(column + a * stride + p * lanes) * load(b + p * lanes);
    for (int a = columns - 1; a >= 0; --a) {
      if (a >= width) continue;
      double rest = b[j0 + a] - sum_of_lanes(s[a])[0];
      // The sums hold the triangle's terms with the old values.
      for (int c = a + 1; c < width; ++c) rest -= entry(j0 + c, j0 + a) * (x[c] - b[j0 + c]);
      x[a] = rest * inverse_diagonal[j0 + a];
    }
    for (int a = 0; a < width; ++a) b[j0 + a] = x[a];
  }
}

// out += sum_i z_i A_i, A_i the m vectors of A, which are n long and `stride` apart
inline void add_combination(const double* A, int m, int n, int stride, const double* z, double* out) {
  const int count = packs(n);
  for (int i = 0; i < m; i += 4) {
    const int size = std::min(4, m - i);
    const double* at = A + i * stride;
    if (size < 4) {
      for (int k = 0; k < size; ++k)
        for (int p = 0; p < count; ++p)
          store(load(out + p * lanes) + load(at + k * stride + p * lanes) * Pack(z[i + k]), out + p * lanes);
      break;
    }
    const Pack z0 = z[i], z1 = z[i + 1], z2 = z[i + 2], z3 = z[i + 3];
    for (int p = 0; p < count; ++p) {
      const double* a = at + p * lanes;
      const Pack s = load(a) * z0 + load(a + stride) * z1 + load(a + 2 * stride) * z2 + load(a + 3 * stride) * z3;
      store(load(out + p * lanes) + s, out + p * lanes);
    }
  }
}

// out_i = A_i x for the m vectors of A
inline void multiply(const double* A, int m, int n, int stride, const double* x, double* out) {
  const int count = packs(n);
  for (int i = 0; i < m; i += 4) {
    const int size = std::min(4, m - i);
    Pack s[4] = {0.0, 0.0, 0.0, 0.0};
    if (size == 4) {
      for (int p = 0; p < count; ++p)
        for (int k = 0; k < 4; ++k) s[k] += load(A + (i + k) * stride + p * lanes) * load(x + p * lanes);
    } else {
      for (int p = 0; p < count; ++p)
        for (int k = 0; k < size; ++k) s[k] += load(A + (i + k) * stride + p * lanes) * load(x + p * lanes);
    }
    for (int k = 0; k < size; ++k) out[i + k] = sum_of_lanes(s[k])[0];
  }
}

}  // namespace qp_control
