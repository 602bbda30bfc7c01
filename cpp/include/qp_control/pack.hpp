// A Pack is a vector register of doubles: the same number of as many different problems, one per lane, or consecutive
// numbers of one problem. A comparison gives a Mask, and select() replaces the branch. No operation but the horizontal
// ones mixes lanes, so what a lane computes does not depend on its neighbours.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace qp_control {

// Eigen aligns its memory by the widest register that a build knows, unless it is told otherwise: then a pack must not
// be wider than that, whatever the processor.
constexpr int lanes = EIGEN_MAX_ALIGN_BYTES >= 64 ? 8 : EIGEN_MAX_ALIGN_BYTES >= 32 ? 4 : 2;

typedef double PackData __attribute__((vector_size(8 * lanes), may_alias));
typedef long long MaskData __attribute__((vector_size(8 * lanes)));

// All bits of a lane set, or none.
struct Mask {
  MaskData v;
  static Mask all(bool value) { return {MaskData{} - (value ? 1 : 0)}; }
  bool operator[](int lane) const { return v[lane] != 0; }
  void set(int lane, bool value) { v[lane] = value ? -1 : 0; }
  friend Mask operator&(Mask a, Mask b) { return {a.v & b.v}; }
  friend Mask operator|(Mask a, Mask b) { return {a.v | b.v}; }
  friend Mask operator^(Mask a, Mask b) { return {a.v ^ b.v}; }
  friend Mask operator!(Mask a) { return {~a.v}; }
};

struct Pack {
  PackData v;
  Pack() = default;
  Pack(PackData data) : v(data) {}
  Pack(double value) : v(PackData{} + value) {}
  double operator[](int lane) const { return v[lane]; }
  void set(int lane, double value) { v[lane] = value; }
  Pack& operator+=(Pack a) { return v += a.v, *this; }
  Pack& operator-=(Pack a) { return v -= a.v, *this; }
  Pack& operator*=(Pack a) { return v *= a.v, *this; }
  friend Pack operator+(Pack a, Pack b) { return a.v + b.v; }
  friend Pack operator-(Pack a, Pack b) { return a.v - b.v; }
  friend Pack operator*(Pack a, Pack b) { return a.v * b.v; }
  friend Pack operator/(Pack a, Pack b) { return a.v / b.v; }
  friend Pack operator-(Pack a) { return -a.v; }
  friend Mask operator<(Pack a, Pack b) { return {a.v < b.v}; }
  friend Mask operator>(Pack a, Pack b) { return {a.v > b.v}; }
  friend Mask operator<=(Pack a, Pack b) { return {a.v <= b.v}; }
  friend Mask operator>=(Pack a, Pack b) { return {a.v >= b.v}; }
  friend Mask operator==(Pack a, Pack b) { return {a.v == b.v}; }
  friend Mask operator!=(Pack a, Pack b) { return {a.v != b.v}; }
};

inline Pack select(Mask mask, Pack yes, Pack no) { return (PackData)(mask.v ? yes.v : no.v); }
inline double select(bool mask, double yes, double no) { return mask ? yes : no; }

inline bool any(Mask mask) {
  long long out = 0;
  for (int lane = 0; lane < lanes; ++lane) out |= mask.v[lane];
  return out != 0;
}
inline bool any(bool mask) { return mask; }
inline bool all(Mask mask) { return !any(!mask); }
inline bool all(bool mask) { return mask; }

// NaN in the second argument is passed over: fmax, fmin.
inline Pack max(Pack a, Pack b) { return (PackData)(a.v < b.v ? b.v : a.v); }
inline Pack min(Pack a, Pack b) { return (PackData)(b.v < a.v ? b.v : a.v); }
inline double max(double a, double b) { return a < b ? b : a; }
inline double min(double a, double b) { return b < a ? b : a; }
inline Pack abs(Pack a) { return (PackData)((MaskData)a.v & 0x7fffffffffffffffll); }
inline double abs(double a) { return std::abs(a); }
inline Mask finite(Pack a) { return a - a == Pack(0.0); }
inline bool finite(double a) { return std::isfinite(a); }
inline Pack sqrt(Pack a) {
  Pack out;
  for (int lane = 0; lane < lanes; ++lane) out.v[lane] = std::sqrt(a.v[lane]);
  return out;
}
inline double sqrt(double a) { return std::sqrt(a); }

// 0, 1, ..
inline Pack numbered_lanes() {
  Pack out;
  for (int lane = 0; lane < lanes; ++lane) out.v[lane] = lane;
  return out;
}

// Lane k of the result is lane from[k] of (a, b).
inline PackData shuffle(PackData a, PackData b, MaskData from) {
#if defined(__clang__)
  PackData out;
  for (int lane = 0; lane < lanes; ++lane) out[lane] = from[lane] < lanes ? a[from[lane]] : b[from[lane] - lanes];
  return out;
#else
  return __builtin_shuffle(a, b, from);
#endif
}
// Lane k of the result is lane k ^ distance of a.
template <int distance>
inline PackData exchange(PackData a) {
  MaskData from;
  for (int lane = 0; lane < lanes; ++lane) from[lane] = lane ^ distance;
  return shuffle(a, a, from);
}
// Horizontal: over the lanes, the result in every lane.
inline Pack sum_of_lanes(Pack a) {
  if constexpr (lanes > 4) a += Pack(exchange<4>(a.v));
  if constexpr (lanes > 2) a += Pack(exchange<2>(a.v));
  return a + Pack(exchange<1>(a.v));
}
// Half as many partial sums: of a's blocks of 2 half lanes each, then of b's.
template <int half>
inline PackData fold(PackData a, PackData b) {
  MaskData low, high;
  for (int lane = 0; lane < lanes; ++lane) {
    low[lane] = lane / half * 2 * half + lane % half;
    high[lane] = low[lane] + half;
  }
  return shuffle(a, b, low) + shuffle(a, b, high);
}
// The sums of four at once, to the bit those of sum_of_lanes, in a third of the operations.
inline void sums_of_lanes(const Pack (&s)[4], double* out) {
  constexpr int half = lanes / 2;
  const PackData a = fold<half>(s[0].v, s[1].v), b = fold<half>(s[2].v, s[3].v);
  if constexpr (lanes == 2) {
    std::memcpy(out, &a, sizeof(a));
    std::memcpy(out + 2, &b, sizeof(b));
  } else {
    PackData c = fold<half / 2>(a, b);
    if constexpr (lanes == 8) c = fold<1>(c, c);
    std::memcpy(out, &c, 4 * sizeof(double));
  }
}
inline Pack max_of_lanes(Pack a) {
  if constexpr (lanes > 4) a = max(a, Pack(exchange<4>(a.v)));
  if constexpr (lanes > 2) a = max(a, Pack(exchange<2>(a.v)));
  return max(a, Pack(exchange<1>(a.v)));
}

// Consecutive numbers, aligned.
inline Pack load(const double* from) { return *reinterpret_cast<const PackData*>(from); }
inline void store(Pack a, double* to) { *reinterpret_cast<PackData*>(to) = a.v; }
// Size in packs, and in numbers, that holds `size` numbers.
constexpr int packs(int size) { return (size + lanes - 1) / lanes; }
constexpr int padded(int size) { return packs(size) * lanes; }

// The power of two next to 1 / sqrt(a), for positive normal numbers: scaling by it is exact.
inline Pack inverse_root_power_of_two(Pack a) {
  const MaskData exponent = ((MaskData)a.v >> 52) - 1023;
  return (PackData)((1023 - (exponent >> 1)) << 52);
}
inline double inverse_root_power_of_two(double a) { return std::ldexp(1.0, -(std::ilogb(a) >> 1)); }
// The power of two that is at most a, inverted.
inline Pack inverse_power_of_two(Pack a) {
  const MaskData exponent = ((MaskData)a.v >> 52) - 1023;
  return (PackData)((1023 - exponent) << 52);
}
inline double inverse_power_of_two(double a) { return std::ldexp(1.0, -std::ilogb(a)); }

}  // namespace qp_control

template <>
struct Eigen::NumTraits<qp_control::Pack> : Eigen::GenericNumTraits<qp_control::Pack> {
  enum {
    IsComplex = 0,
    IsInteger = 0,
    IsSigned = 1,
    RequireInitialization = 0,
    ReadCost = 1,
    AddCost = 1,
    MulCost = 1
  };
};

namespace qp_control {

using PackArray = Eigen::Matrix<Pack, Eigen::Dynamic, 1>;

// The numbers of an array of packs.
inline double* numbers(PackArray& a) { return reinterpret_cast<double*>(a.data()); }
inline const double* numbers(const PackArray& a) { return reinterpret_cast<const double*>(a.data()); }
inline Eigen::Map<Eigen::VectorXd> numbers(PackArray& a, int size) { return {numbers(a), size}; }
inline Eigen::Map<const Eigen::VectorXd> numbers(const PackArray& a, int size) { return {numbers(a), size}; }

}  // namespace qp_control
