// Arrays whose size differs from problem to problem, in memory that is taken once.
#pragma once

#include <new>
#include <utility>

#include "qp_control/linear_algebra.hpp"
#include "qp_control/pack.hpp"

namespace qp_control {

// To Eigen it is a Map. Like a std::vector it keeps its memory when it shrinks, and allocates only where it grows
// beyond what it has had; new entries are not initialised, and a column-major matrix that only loses columns keeps the
// others.
template <class Array>
class Reserved : public Eigen::Map<Array, Eigen::AlignedMax> {
  using Map = Eigen::Map<Array, Eigen::AlignedMax>;
  using Scalar = typename Array::Scalar;
  using Index = Eigen::Index;

 public:
  Reserved() : Map(nullptr, 0, Array::ColsAtCompileTime == 1 ? 1 : 0) {}
  template <class Other>
  Reserved(const Eigen::EigenBase<Other>& other) : Reserved() {
    *this = other;
  }
  Reserved(const Reserved& other) : Reserved() { *this = other; }
  Reserved(Reserved&& other) noexcept : Reserved() { *this = std::move(other); }

  template <class Other>
  Reserved& operator=(const Eigen::EigenBase<Other>& other) {
    resize(other.rows(), other.cols());
    Map::operator=(other.derived());
    return *this;
  }
  Reserved& operator=(const Reserved& other) { return *this = static_cast<const Eigen::EigenBase<Map>&>(other); }
  Reserved& operator=(Reserved&& other) noexcept {
    const Index rows = other.rows(), cols = other.cols();
    memory_.swap(other.memory_);
    resize(rows, cols);
    other.resize(0, Array::ColsAtCompileTime == 1 ? 1 : 0);
    return *this;
  }

  // Room for that many entries; the present ones are lost where it grows.
  void reserve(Index size) {
    if (size > memory_.size()) memory_.resize(size);
    resize(0, Array::ColsAtCompileTime == 1 ? 1 : 0);
  }
  void resize(Index rows, Index cols = 1) {
    if (rows * cols > memory_.size()) memory_.resize(rows * cols);
    new (static_cast<Map*>(this)) Map(memory_.data(), rows, cols);  // Eigen's way to move a Map
  }

  using Map::setConstant;
  using Map::setZero;
  void setConstant(Index size, const Scalar& value) {
    resize(size);
    Map::setConstant(value);
  }
  void setZero(Index rows, Index cols = 1) {
    resize(rows, cols);
    Map::setZero();
  }

 private:
  Eigen::Matrix<Scalar, Eigen::Dynamic, 1> memory_;
};

inline double* numbers(Reserved<PackArray>& a) { return reinterpret_cast<double*>(a.data()); }
inline const double* numbers(const Reserved<PackArray>& a) { return reinterpret_cast<const double*>(a.data()); }
inline Eigen::Map<Vector> numbers(Reserved<PackArray>& a, int size) { return {numbers(a), size}; }
inline ConstVectorMap numbers(const Reserved<PackArray>& a, int size) { return {numbers(a), size}; }

}  // namespace qp_control
