// Dense linear algebra of one problem, vectorised over its rows: column-major matrices whose columns (or row-major ones
// whose rows) start a multiple of `lanes` numbers apart and are filled up with zeros.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <limits>
#include <utility>

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

// Calls body with the number of columns as a constant.
template <class Body>
inline bool with_width(int width, const Body& body) {
  switch (width) {
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

// The columns j0.. of a factor, from what those before have left of the matrix; `at` is the first of them.
template <int width>
bool factor_columns(double* at, double* inverse_diagonal, int n, int stride, int j0) {
  // The block on the diagonal without square roots, for which its columns would wait: left = L D, unit = L.
  double left[width][width], unit[width][width], inverse[width];
  for (int b = 0; b < width; ++b)
    for (int a = b; a < width; ++a) {
      double s = at[j0 + a + b * stride];
      for (int c = 0; c < b; ++c) s -= unit[a][c] * left[b][c];
      if (a == b) {
        if (!(s > 0.0)) return false;
        inverse[b] = 1.0 / std::max(s, std::numeric_limits<double>::min());
      }
      left[a][b] = s;
      unit[a][b] = s * inverse[b];
    }
  for (int b = 0; b < width; ++b) inverse_diagonal[j0 + b] = inverse[b] = std::sqrt(inverse[b]);
  for (int p = j0 / lanes; p < packs(n); ++p) {
    Pack column[width];
    for (int b = 0; b < columns; ++b) {
      double* to = at + b * stride + p * lanes;
      Pack s = 0.0;
      if (b < width) {
        column[b] = load(to);
        for (int c = 0; c < b; ++c) column[b] -= column[c] * Pack(unit[b][c]);
        s = column[b] * Pack(inverse[b]);
      }
      if (p * lanes <= j0 + b) s = select(numbered_lanes() > Pack(j0 + b - p * lanes), s, 0.0);
      store(s, to);
    }
  }
  return true;
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
    if (!with_width(width, [&](auto w) { return factor_columns<w>(L + j0 * stride, inverse_diagonal, n, stride, j0); }))
      return false;
  }
  return true;
}

// Forward substitution with the first columns: b_1 <- L_11^-1 b_1, b_2 <- b_2 - L_21 b_1. Four columns at a time: a
// small triangle, then the rest of the columns in one pass.
inline void forward_part(const double* L, const double* inverse_diagonal, int first, int n, int stride, double* b) {
  using dense_detail::columns;
  for (int j0 = 0; j0 < first; j0 += columns) {
    const int width = std::min(columns, first - j0);
    const double* column = L + j0 * stride;
    double x[columns];
    for (int a = 0; a < columns; ++a) {
      if (a >= width) {
        x[a] = 0.0;
        continue;
      }
      x[a] = b[j0 + a];
      for (int c = 0; c < a; ++c) x[a] -= column[j0 + a + c * stride] * x[c];
      x[a] *= inverse_diagonal[j0 + a];
    }
    for (int p = j0 / lanes; p < packs(n); ++p) {
      Pack s = load(b + p * lanes);
      for (int a = 0; a < columns; ++a) s -= load(column + a * stride + p * lanes) * Pack(x[a]);
      store(s, b + p * lanes);
    }
    for (int a = 0; a < width; ++a) b[j0 + a] = x[a];  // the pass went over the triangle too
  }
}

// Back substitution with the first columns: b_1 <- L_11'^-1 (b_1 - L_21' b_2).
inline void backward_part(const double* L, const double* inverse_diagonal, int first, int n, int stride, double* b) {
  using dense_detail::columns;
  for (int j0 = (first - 1) / columns * columns; j0 >= 0; j0 -= columns) {
    const int width = std::min(columns, first - j0);
    const double* column = L + j0 * stride;
    Pack s[columns] = {0.0, 0.0, 0.0, 0.0};
    for (int p = j0 / lanes; p < packs(n); ++p)
      for (int a = 0; a < columns; ++a) s[a] += load(column + a * stride + p * lanes) * load(b + p * lanes);
    double sum[columns], x[columns];
    sums_of_lanes(s, sum);
    for (int a = width - 1; a >= 0; --a) {
      double rest = b[j0 + a] - sum[a];
      // The sums hold the triangle's terms with the old values.
      for (int c = a + 1; c < width; ++c) rest -= column[j0 + c + a * stride] * (x[c] - b[j0 + c]);
      x[a] = rest * inverse_diagonal[j0 + a];
    }
    for (int a = 0; a < width; ++a) b[j0 + a] = x[a];
  }
}

// b <- (L L')^-1 b
inline void cholesky_solve(const double* L, const double* inverse_diagonal, int n, int stride, double* b) {
  forward_part(L, inverse_diagonal, n, n, stride, b);
  backward_part(L, inverse_diagonal, n, n, stride, b);
}

// Columns of a panel of the factorisation below; a matrix has room for a multiple of them.
constexpr int lu_panel = 8;

// M <- L and U of P M = L U, L with ones on its diagonal: row exchanges by the largest entry. exchanged: row k, with
// which one; n entries. By panels, on each of which all columns before it act first.
inline void lu(double* M, int n, int stride, int* exchanged) {
  using namespace dense_detail;
  static_assert(lu_panel % lanes == 0 && lu_panel % columns == 0);
  const auto column = [&](int j) { return Eigen::Map<Eigen::VectorXd>(M + j * stride, n); };
  for (int j0 = 0; j0 < n; j0 += lu_panel) {
    double* panel = M + j0 * stride;
    for (int b = 0; b < lu_panel; ++b)
      for (int k = 0; k < j0; ++k) std::swap(panel[k + b * stride], panel[exchanged[k] + b * stride]);
    for (int k0 = 0; k0 < j0; k0 += lu_panel) {
      double U[lu_panel][lu_panel];
      for (int k = 0; k < lu_panel; ++k)
        for (int b = 0; b < lu_panel; ++b) {
          double s = panel[k0 + k + b * stride];
          for (int c = 0; c < k; ++c) s -= M[k0 + k + (k0 + c) * stride] * U[c][b];
          panel[k0 + k + b * stride] = U[k][b] = s;
        }
      for (int b0 = 0; b0 < lu_panel; b0 += columns)
        for_packs((k0 + lu_panel) / lanes, packs(n), [&](int p, auto size) {
          Pack S[size][columns];
          double* at = panel + p * lanes + b0 * stride;
          for (int a = 0; a < size; ++a)
            for (int b = 0; b < columns; ++b) S[a][b] = load(at + a * lanes + b * stride);
          accumulate<-1, size>(
              lu_panel, [&](int k) { return M + p * lanes + (k0 + k) * stride; }, [&](int k) { return U[k] + b0; }, S);
          for (int a = 0; a < size; ++a)
            for (int b = 0; b < columns; ++b) store(S[a][b], at + a * lanes + b * stride);
        });
    }
    const int end = std::min(j0 + lu_panel, n);
    for (int k = j0; k < end; ++k) {
      const int below = n - k - 1;
      Eigen::Index largest;
      column(k).tail(n - k).cwiseAbs().maxCoeff(&largest);
      exchanged[k] = k + static_cast<int>(largest);
      if (largest > 0)
        for (int j = 0; j < end; ++j) std::swap(M[k + j * stride], M[exchanged[k] + j * stride]);
      const double pivot = M[k + k * stride];
      if (pivot != 0.0) column(k).tail(below) /= pivot;
      for (int j = k + 1; j < end; ++j) column(j).tail(below) -= M[k + j * stride] * column(k).tail(below);
    }
  }
}

// b <- M^-1 b; not finite where M is singular.
inline void lu_solve(const double* LU, int n, int stride, const int* exchanged, double* b) {
  const auto column = [&](int j) { return Eigen::Map<const Eigen::VectorXd>(LU + j * stride, n); };
  Eigen::Map<Eigen::VectorXd> x(b, n);
  for (int k = 0; k < n; ++k) std::swap(x[k], x[exchanged[k]]);
  for (int k = 0; k < n; ++k) x.tail(n - k - 1) -= x[k] * column(k).tail(n - k - 1);
  for (int k = n - 1; k >= 0; --k) {
    x[k] /= LU[k + k * stride];
    x.head(k) -= x[k] * column(k).head(k);
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
    double sum[4];
    sums_of_lanes(s, sum);
    std::copy_n(sum, size, out + i);
  }
}

}  // namespace qp_control
