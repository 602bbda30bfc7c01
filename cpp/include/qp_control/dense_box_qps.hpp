// The solver's own box_qps.hpp.
#pragma once

#include "qp_control/box_qps.hpp"
#include "qp_control/derivatives.hpp"
#include "qp_control/settings.hpp"

namespace qp_control {

std::unique_ptr<BoxQpMaker> box_qp_maker(const Settings& settings, const DerivativeSettings& derivatives);

}  // namespace qp_control
