#include "controller_files.hpp"

#include <boost/json.hpp>
#include <pinocchio/serialization.hpp>
#include <set>
#include <stdexcept>

#include "qp_control/parameter_files.hpp"

namespace qp_control {
namespace {

namespace json = boost::json;
using Eigen::Vector3d;

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

std::string text(const json::object& from, const char* key) { return from.at(key).as_string().c_str(); }

std::vector<int> integers(const json::value& from) {
  std::vector<int> out;
  for (const json::value& value : from.as_array()) out.push_back(value.to_number<int>());
  return out;
}

Vector3d vector(const json::value& from) {
  Vector3d out;
  for (int i = 0; i < 3; ++i) out[i] = from.at(i).to_number<double>();
  return out;
}

std::vector<Vector3d> vectors(const json::value& from) {
  std::vector<Vector3d> out;
  for (const json::value& value : from.as_array()) out.push_back(vector(value));
  return out;
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
    out_.parts.actuated = velocities(all_.at("actuated"));
    if (std::set<int>(out_.parts.actuated.begin(), out_.parts.actuated.end()).size() != out_.parts.actuated.size())
      fail("a velocity is driven twice");
    int forces = 0;  // where those of the next contact begin
    for (const json::value& d : list("supports")) {
      out_.parts.supports.push_back(support(d.as_object(), out_.model.nv + forces));
      forces += 3 * static_cast<int>(out_.parts.supports.back().points.size());
    }
    n_ = out_.model.nv + forces;
    for (const json::value& d : list("terms")) out_.parts.terms.push_back(term(d.as_object()));
    for (const json::value& d : list("bounds")) out_.parts.bounds.push_back(bounds(d.as_object()));
    for (const json::value& d : list("barriers")) out_.parts.barriers.push_back(barrier(d.as_object()));
    if (const json::value& d = all_.at("torque_limit"); !d.is_null()) {
      const std::string name = text(d.as_object(), "name");
      const int nu = static_cast<int>(out_.parts.actuated.size());
      out_.parts.torque_lower = number(name, "lower", nu);
      out_.parts.torque_upper = number(name, "upper", nu);
      // Of a soft one, the weight is among those of the rows.
      if (!d.at("hard").as_bool()) out_.options.torque_shift_weight = 1.0;
    }
    out_.parts.numbers = out_.numbers.size();
    out_.parts.threads = 1;
    options();
    return std::move(out_);
  }

 private:
  const json::array& list(const char* key) const { return all_.at(key).as_array(); }

  // Offset of a number that has to have this size; the same one where several parts use it.
  int number(const std::string& part, const char* key, int size) {
    const std::string name = part + "." + key;
    const auto known = out_.places.find(name);
    if (known != out_.places.end()) {
      if (known->second.size != size) fail("the array " + name + " has an unexpected shape");
      return known->second.first;
    }
    const int first = out_.numbers.add(files_.array(name, {size}).data);
    out_.places[name] = {first, size};
    return first;
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
  std::vector<int> velocities(const json::value& from) const {
    return within(integers(from), out_.model.nv, "velocity");
  }

  Term term(const json::object& d) {
    Term t{kind_of<TermKind>(d, {{"frame", TermKind::frame},
                                 {"centre_of_mass", TermKind::centre_of_mass},
                                 {"angular_momentum", TermKind::angular_momentum},
                                 {"posture", TermKind::posture},
                                 {"torque", TermKind::torque},
                                 {"selection", TermKind::selection}}),
           integers(d.at("rows"))};
    const std::string name = text(d, "name");
    t.hard = d.at("hard").as_bool();
    if (d.contains("level")) t.level = d.at("level").to_number<int>();
    if (t.level < 1) fail(name + " makes no sense");
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
        t.first = d.at("first").to_number<int>();
        if (d.contains("points")) t.points = d.at("points").to_number<int>();
        if (t.first < 0 || t.points < 1) fail(name + " makes no sense");
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
        t.position = d.at("position").as_bool();
        t.orientation = d.at("orientation").as_bool();
        t.own_axes = d.at("own_axes").as_bool();
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
            vectors(d.at("points")),     vectors(d.at("directions")),
            vector(d.at("normal")),      number(name, "activation", 1),
            number(name, "friction", 1), number(name, "min_force", 1),
            number(name, "max_force", 1)};
  }

  JointBounds bounds(const json::object& d) {
    const std::string name = text(d, "name");
    JointBounds b{kind_of<BoundKind>(d, {{"position", BoundKind::position},
                                         {"velocity", BoundKind::velocity},
                                         {"acceleration", BoundKind::acceleration}}),
                  within(integers(d.at("q")), out_.model.nq, "coordinate"), velocities(d.at("v"))};
    if (b.q.size() != b.v.size()) fail(name + " makes no sense");
    const int size = static_cast<int>(b.v.size());
    b.acceleration = number(name, "acceleration", size);
    if (b.kind == BoundKind::acceleration) return b;
    b.dt = d.at("dt").to_number<double>();
    if (b.kind == BoundKind::velocity) {
      b.velocity = number(name, "velocity", size);
      return b;
    }
    b.return_time = d.at("return_time").to_number<double>();
    b.lower = number(name, "lower", size);
    b.upper = number(name, "upper", size);
    return b;
  }

  Barrier barrier(const json::object& d) {
    const std::string name = text(d, "name");
    Barrier b{};
    b.kind = kind_of<BarrierKind>(
        d, {{"plane", BarrierKind::plane}, {"sphere", BarrierKind::sphere}, {"frame", BarrierKind::frame}});
    b.frame = frame(d, "frame");
    b.other = frame(d, "other");
    b.normal = b.kind == BarrierKind::plane ? vector(d.at("normal")) : Vector3d(Vector3d::Zero());
    b.stiffness = number(name, "stiffness", 1);
    b.damping = number(name, "damping", 1);
    b.distance = number(name, "distance", 1);
    if (b.kind == BarrierKind::sphere) b.centre = number(name, "centre", 3);
    return b;
  }

  void options() {
    Settings& s = out_.settings;
    s.eps_abs = files_.number("eps_abs");
    s.eps_rel = files_.number("eps_rel");
    s.reduced_eps_rel = files_.number("reduced_eps_rel");
    s.max_iter = static_cast<int>(files_.number("max_iter"));
    s.time_limit = files_.number("time_limit");
    s.closest = files_.number("closest") != 0.0;
    if (!(s.eps_abs > 0.0 && s.eps_rel >= 0.0 && s.reduced_eps_rel >= 0.0 && s.max_iter > 0))
      fail("the settings make no sense");
    // Their sizes are looked at by the loop.
    for (const char* name : {"weight_eq", "weight_in", "weight_box"}) {
      const auto found = files_.arrays.find(name);
      if (found == files_.arrays.end()) fail(std::string("there is no array ") + name);
      auto& all = out_.options.shift_weights;
      all.insert(all.end(), found->second.data.begin(), found->second.data.end());
    }
    const auto parameters = files_.arrays.find("parameters");
    if (parameters != files_.arrays.end()) out_.options.parameters = parameters->second.data;
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
    fail(path + " cannot be read: " + error.what());
  }
  return model;
}

}  // namespace

ControllerFiles read_controller(const std::string& folder) {
  const ParameterFiles files = read_parameters(folder);
  if (files.kind != "inverse_dynamics")
    fail("these are parameters of a controller " + files.kind + ", expected inverse_dynamics");
  pinocchio::Model model = read_model(folder + "/robot.txt");
  try {
    return Reader(files, std::move(model)).read();
  } catch (const std::exception& error) {  // of JSON's kinds, or those above
    fail(folder + "/controller.json is damaged: " + error.what());
  }
}

}  // namespace qp_control
