#include "controller_files.hpp"

#include <boost/json.hpp>
#include <pinocchio/algorithm/joint-configuration.hpp>
#include <pinocchio/serialization.hpp>
#include <set>

#include "../controllers/json_entries.hpp"
#include "../controllers/ranges.hpp"
#include "qp_control/parameter_files.hpp"

namespace qp_control {
namespace {

namespace json = boost::json;
using Eigen::Vector3d;

Vector3d vector(const json::value& from) {
  const json::array& numbers = from.as_array();
  if (numbers.size() != 3) fail("not three");
  Vector3d out;
  for (int i = 0; i < 3; ++i) out[i] = numbers[i].to_number<double>();
  if (!out.allFinite()) fail("infinite");
  return out;
}

Vector3d vector(const json::object& from, const char* key) {
  return entry(from, key, "three numbers", [](const auto& value) { return vector(value); });
}

std::vector<Vector3d> vectors(const json::object& from, const char* key) {
  return entry(from, key, "a list of three numbers each", [](const auto& value) {
    std::vector<Vector3d> out;
    for (const json::value& one : value.as_array()) out.push_back(vector(one));
    return out;
  });
}

template <class Kind>
Kind kind_of(const json::object& from, std::initializer_list<std::pair<const char*, Kind>> known) {
  const std::string name = text(from, "kind");
  for (const auto& [word, kind] : known)
    if (name == word) return kind;
  fail("there is no kind " + name);
}

class Reader {
 public:
  Reader(const ParameterFiles& files, pinocchio::Model model)
      : files_(files), parsed_(json::parse(files.description)), all_(parsed_.as_object()) {
    out_.model = std::move(model);
  }

  ControllerFiles read() {
    out_.parts.actuated = velocities(all_, "actuated");
    if (std::set<int>(out_.parts.actuated.begin(), out_.parts.actuated.end()).size() != out_.parts.actuated.size())
      fail("a velocity is driven twice");
    int forces = 0;  // where those of the next contact begin
    each("supports", [&](const json::object& d) {
      out_.parts.supports.push_back(support(d, out_.model.nv + forces));
      forces += 3 * static_cast<int>(out_.parts.supports.back().points.size());
    });
    n_ = out_.model.nv + forces;
    each("terms", [&](const json::object& d) { out_.parts.terms.push_back(term(d)); });
    each("bounds", [&](const json::object& d) { out_.parts.bounds.push_back(bounds(d)); });
    each("barriers", [&](const json::object& d) { out_.parts.barriers.push_back(barrier(d)); });
    const auto limit = [](const json::value& value) { return value.is_null() ? nullptr : &value.as_object(); };
    if (const json::object* d = entry(all_, "torque_limit", "null or an object", limit)) {
      const std::string name = text(*d, "name");
      const int nu = static_cast<int>(out_.parts.actuated.size());
      out_.parts.torque_lower = number(name, "lower", nu, Range::LOWER);
      out_.parts.torque_upper = number(name, "upper", nu, Range::UPPER);
      // Of a soft one, the weight is among those of the rows.
      if (!flag(*d, "hard")) out_.options.torque_shift_weight = 1.0;
    }
    out_.parts.numbers = out_.numbers.size();
    out_.parts.threads = 1;
    options();
    return std::move(out_);
  }

 private:
  // Errors name the part.
  template <class Read>
  void each(const char* key, const Read& read) {
    int k = 0;
    for (const json::value& d : list(all_, key)) {
      try {
        read(d.as_object());
      } catch (const std::exception& error) {
        fail(std::string(key) + "[" + std::to_string(k) + "]: " + reason(error));
      }
      ++k;
    }
  }

  // Offset of a number that has to have this size; the same one where several parts use it.
  int number(const std::string& part, const char* key, int size, Range range = Range::FINITE) {
    const std::string name = part + "." + key;
    const std::vector<double>& values = files_.array(name, {size}).data;
    check_range(name, values, range);
    const auto [place, added] = out_.places.try_emplace(name);
    if (added) place->second = {out_.numbers.add(values), size};
    return place->second.first;
  }

  int frame(const json::object& from, const char* key) const {
    const std::string name = text(from, key);
    if (!out_.model.existFrame(name)) fail("the robot has no frame " + name);
    // Names may repeat: the first, as in Python.
    for (std::size_t i = 0; i < out_.model.frames.size(); ++i)
      if (out_.model.frames[i].name == name) return static_cast<int>(i);
    return 0;
  }

  static std::vector<int> within(std::vector<int> indices, int end, const char* what) {
    for (int i : indices)
      if (i < 0 || i >= end) fail(std::string("there is no ") + what + " " + std::to_string(i));
    return indices;
  }
  std::vector<int> velocities(const json::object& from, const char* key) const {
    return within(integers(from, key), out_.model.nv, "velocity");
  }

  void check_direction(const std::string& name, bool has) const {
    if (!has) fail("the array " + name + ".reference has a direction (a quaternion, or cos and sin) of length zero");
  }

  Term term(const json::object& d) {
    Term t{kind_of<TermKind>(d, {{"frame", TermKind::frame},
                                 {"centre_of_mass", TermKind::centre_of_mass},
                                 {"angular_momentum", TermKind::angular_momentum},
                                 {"posture", TermKind::posture},
                                 {"torque", TermKind::torque},
                                 {"selection", TermKind::selection}}),
           integers(d, "rows")};
    const std::string name = text(d, "name");
    t.hard = flag(d, "hard");
    if (d.contains("level")) t.level = integer(d, "level");
    if (t.level < 1) fail("level is " + std::to_string(t.level) + ", expected at least 1");
    const int rows = static_cast<int>(t.rows.size()), nv = out_.model.nv;
    if (!t.hard) t.weight = number(name, "weight", rows);
    int positions = 0, velocities = 0;
    switch (t.kind) {
      case TermKind::torque:
      case TermKind::selection: {
        if (t.hard) fail(name + " cannot be a constraint");
        t.reference = number(name, "reference", rows);
        if (t.kind == TermKind::torque) {
          within(t.rows, static_cast<int>(out_.parts.actuated.size()), "torque");
          return t;
        }
        t.first = integer(d, "first");
        if (d.contains("points")) t.points = integer(d, "points");
        if (t.first < 0 || t.first > n_ || t.points < 1 || t.points > n_)
          fail(name + " begins at " + std::to_string(t.first) + " and has " + std::to_string(t.points) +
               " points, of " + std::to_string(n_) + " numbers in all");
        within(t.rows, n_ - t.first - 3 * (t.points - 1), "number");
        return t;
      }
      case TermKind::angular_momentum:
        within(t.rows, 3, "axis");
        t.damping = number(name, "damping", rows);
        t.reference = number(name, "reference", 3);
        t.acceleration = number(name, "rate", 3);
        return t;
      case TermKind::frame:
        t.frame = frame(d, "frame");
        t.base = frame(d, "base");
        t.position = flag(d, "position");
        t.orientation = flag(d, "orientation");
        t.own_axes = flag(d, "own_axes");
        velocities = 3 * (t.position + t.orientation);
        positions = 3 * t.position + 4 * t.orientation;
        within(t.rows, velocities, "axis");
        break;
      case TermKind::centre_of_mass:
        positions = velocities = 3;
        within(t.rows, 3, "axis");
        break;
      case TermKind::posture:
        positions = out_.model.nq;
        velocities = nv;
        within(t.rows, nv, "velocity");
        break;
    }
    t.stiffness = number(name, "stiffness", rows);
    t.damping = number(name, "damping", rows);
    t.reference = number(name, "reference", positions);
    const Eigen::Map<const Eigen::VectorXd> reference(out_.numbers.data() + t.reference, positions);
    if (t.kind == TermKind::posture) {
      Eigen::VectorXd q = reference;
      pinocchio::normalize(out_.model, q);
      check_direction(name, pinocchio::isNormalized(out_.model, q));
    } else if (t.orientation) {
      check_direction(name, reference.tail<4>().norm() > 0.0);
    }
    if (files_.arrays.count(name + ".activation")) {  // what a contact asks of its frame
      t.activation = number(name, "activation", 1);
    } else {
      t.velocity = number(name, "velocity", velocities);
      t.acceleration = number(name, "acceleration", velocities);
    }
    return t;
  }

  Support support(const json::object& d, int first) {
    const std::string name = text(d, "name");
    return {frame(d, "frame"),           first,
            vectors(d, "points"),        vectors(d, "directions"),
            vector(d, "normal"),         number(name, "activation", 1),
            number(name, "friction", 1), number(name, "min_force", 1),
            number(name, "max_force", 1)};
  }

  JointBounds bounds(const json::object& d) {
    const std::string name = text(d, "name");
    JointBounds b{kind_of<BoundKind>(d, {{"position", BoundKind::position},
                                         {"velocity", BoundKind::velocity},
                                         {"acceleration", BoundKind::acceleration}}),
                  within(integers(d, "q"), out_.model.nq, "coordinate"), velocities(d, "v")};
    if (b.q.size() != b.v.size())
      fail("q has " + std::to_string(b.q.size()) + " indices, expected " + std::to_string(b.v.size()) + " as v");
    const int size = static_cast<int>(b.v.size());
    b.acceleration = number(name, "acceleration", size, Range::NOT_NEGATIVE);
    if (b.kind == BoundKind::acceleration) return b;
    b.dt = positive_number(d, "dt");
    if (b.kind == BoundKind::velocity) {
      b.velocity = number(name, "velocity", size, Range::NOT_NEGATIVE);
      return b;
    }
    b.return_time = positive_number(d, "return_time");
    b.lower = number(name, "lower", size, Range::LOWER);
    b.upper = number(name, "upper", size, Range::UPPER);
    return b;
  }

  Barrier barrier(const json::object& d) {
    const std::string name = text(d, "name");
    Barrier b{};
    b.kind = kind_of<BarrierKind>(
        d, {{"plane", BarrierKind::plane}, {"sphere", BarrierKind::sphere}, {"frame", BarrierKind::frame}});
    b.frame = frame(d, "frame");
    b.other = frame(d, "other");
    b.normal = b.kind == BarrierKind::plane ? vector(d, "normal") : Vector3d(Vector3d::Zero());
    b.stiffness = number(name, "stiffness", 1);
    b.damping = number(name, "damping", 1);
    b.distance = number(name, "distance", 1);
    if (b.kind == BarrierKind::sphere) b.centre = number(name, "centre", 3);
    return b;
  }

  void options() {
    out_.settings = files_.settings();
    // Their sizes are looked at by the loop.
    for (const char* name : {"weight_eq", "weight_in", "weight_box"}) {
      const std::vector<double>& weights = files_.array(name).data;
      check_range(name, weights, Range::POSITIVE);
      out_.options.shift_weights.insert(out_.options.shift_weights.end(), weights.begin(), weights.end());
    }
    const auto parameters = files_.arrays.find("parameters");
    if (parameters == files_.arrays.end()) return;
    out_.options.parameters = parameters->second.data;
    check_range("parameters", out_.options.parameters, Range::FINITE);
  }

  const ParameterFiles& files_;
  const json::value parsed_;
  const json::object& all_;
  ControllerFiles out_;
  int n_ = 0;  // size of x
};

pinocchio::Model read_model(const std::string& path) {
  pinocchio::Model model;
  try {
    pinocchio::serialization::loadFromText(model, path);
  } catch (const std::exception& error) {
    fail(path + ": " + error.what());
  }
  return model;
}

}  // namespace

ControllerFiles read_controller(const std::string& folder) {
  const ParameterFiles files = read_parameters(folder);
  if (files.kind != "inverse_dynamics")
    fail(folder + ": these are parameters of a controller " + files.kind + ", expected inverse_dynamics");
  pinocchio::Model model = read_model(files.file("robot.txt"));
  try {
    return Reader(files, std::move(model)).read();
  } catch (const std::exception& error) {
    fail(folder + ": " + reason(error));
  }
}

}  // namespace qp_control
