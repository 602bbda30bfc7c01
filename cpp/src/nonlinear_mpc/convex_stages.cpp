#include "convex_stages.hpp"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <Eigen/Eigenvalues>

#include "qp_control/batch.hpp"

namespace qp_control {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using In = Eigen::Map<const RowMajor>;
using Out = Eigen::Map<RowMajor>;

constexpr int grain = 4;  // elements per range

// One element; its matrices begin at the pointers.
class Recursion {
 public:
  Recursion(int N, int nx, int nu) : N_(N), nx_(nx), nu_(nu), n_(nx + nu), H_(n_, n_), MAB_(nx, n_), half_(nu, nx) {}

  bool run(const double* hessian, const double* last, const double* AB, double size,
           const ConvexStagesSettings& settings, double* stages, double* M) {
    const long square = long(n_) * n_, block = long(nx_) * nx_;
    const double delta = settings.least * size;
    Out M_next(M + N_ * block, nx_, nx_);
    M_next = In(last, nx_, nx_);
    M_next.diagonal().array() -= delta;
    for (int k = N_ - 1; k >= 0; --k) {
      const In AB_k(AB + k * long(nx_) * n_, nx_, n_);
      Out after(M + (k + 1) * block, nx_, nx_), before(M + k * block, nx_, nx_), stage(stages + k * square, n_, n_);
      if (!(after.cwiseAbs().maxCoeff() <= settings.growth * size)) return false;
      MAB_.noalias() = after * AB_k;
      H_.noalias() = AB_k.transpose() * MAB_;
      H_ += In(hessian + k * square, n_, n_);
      H_ = (0.5 * (H_ + H_.transpose())).eval();
      if (!judge(settings)) return false;
      half_ = scale_.asDiagonal() * H_.bottomLeftCorner(nu_, nx_);
      if (nu_ > 0) R_.matrixL().solveInPlace(half_);
      stage = H_;
      stage.topLeftCorner(nx_, nx_).noalias() = half_.transpose() * half_;
      before = H_.topLeftCorner(nx_, nx_) - stage.topLeftCorner(nx_, nx_);
      before.diagonal().array() -= delta;
      stage.diagonal().head(nx_).array() += delta;
    }
    return true;
  }

 private:
  // Factors R, where it is positive definite or repaired. Inputs have units of their own: R is judged with a diagonal
  // of ones.
  bool judge(const ConvexStagesSettings& settings) {
    if (nu_ == 0) return true;
    auto R = H_.bottomRightCorner(nu_, nu_);
    scale_ = R.diagonal();
    if (scale_.minCoeff() > 0.0) {
      scale_ = scale_.cwiseSqrt().cwiseInverse();
      R_.compute(scale_.asDiagonal() * R * scale_.asDiagonal());
      if (R_.info() == Eigen::Success && R_.matrixLLT().diagonal().minCoeff() > settings.regular) return true;
    }
    if (!settings.repair || !H_.allFinite()) return false;
    scale_ = R.diagonal().cwiseAbs();
    const double largest = R.cwiseAbs().maxCoeff();
    if (!(largest > 0.0)) return false;
    scale_ = scale_.cwiseMax(1e-12 * largest).cwiseSqrt().cwiseInverse();
    eigen_.compute(scale_.asDiagonal() * R * scale_.asDiagonal());
    if (eigen_.info() != Eigen::Success) return false;
    const double least = settings.regular * settings.regular;
    MatrixXd repaired = eigen_.eigenvectors() * eigen_.eigenvalues().cwiseAbs().cwiseMax(least).asDiagonal() *
                        eigen_.eigenvectors().transpose();
    R_.compute(repaired);
    if (R_.info() != Eigen::Success) return false;
    R = scale_.cwiseInverse().asDiagonal() * repaired * scale_.cwiseInverse().asDiagonal();
    return true;
  }

  int N_, nx_, nu_, n_;
  MatrixXd H_, MAB_, half_;
  VectorXd scale_;
  Eigen::LLT<MatrixXd> R_;
  Eigen::SelfAdjointEigenSolver<MatrixXd> eigen_;
};

}  // namespace

void convex_stages(int batch, int N, int nx, int nu, const double* hessian, const double* last, const double* AB,
                   const double* size, const ConvexStagesSettings& settings, int threads, double* stages, double* M,
                   bool* good) {
  const long n = nx + nu;
  parallel_for(batch, grain, thread_count(threads), [&](int first, int end, int) {
    Recursion recursion(N, nx, nu);
    for (long i = first; i < end; ++i)
      good[i] = recursion.run(hessian + i * N * n * n, last + i * nx * nx, AB + i * N * nx * n, size[i], settings,
                              stages + i * N * n * n, M + i * (N + 1) * nx * nx);
  });
}

}  // namespace qp_control
