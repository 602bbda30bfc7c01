#include "qp_control/parameter_files.hpp"

#include <algorithm>
#include <boost/crc.hpp>
#include <boost/json.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>

#include "errors.hpp"
#include "json_entries.hpp"

namespace qp_control {
namespace {

namespace json = boost::json;

constexpr int format = 1;

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

// The names of the arrays that belong to it.
std::vector<std::string> read_description(const std::string& path, ParameterFiles& out) {
  out.description = contents(path);
  const json::value parsed = json::parse(out.description);
  const json::object& all = parsed.as_object();
  const int version = integer(all, "format");
  if (version != format) fail("format " + std::to_string(version) + ", expected " + std::to_string(format));
  out.kind = text(all, "kind");
  for (const auto& [name, value] : all) {
    if (!value.is_number()) continue;
    const double number = out.numbers[name] = value.to_number<double>();
    if (!std::isfinite(number)) fail(std::string(name) + " is infinite");
  }
  for (const auto& [name, value] : *entry(all, "files", "an object", [](const auto& of) { return &of.as_object(); }))
    out.checksums[name] = value.to_number<unsigned>();
  std::vector<std::string> arrays;
  for (const json::value& name : list(all, "arrays")) arrays.emplace_back(name.as_string());
  return arrays;
}

// Its numbers are among the `size` bytes of data.
ParameterArray read_array(const json::object& header, const char* data, std::size_t size) {
  if (const std::string type = text(header, "dtype"); type != "F64") fail("dtype is " + type + ", expected F64");
  ParameterArray array;
  std::size_t count = 1;
  for (const json::value& length : list(header, "shape")) {
    array.shape.push_back(length.to_number<long>());
    const long axis = array.shape.back();
    if (axis < 0 || (axis > 0 && count > size / static_cast<std::size_t>(axis))) fail("its shape is too large");
    count *= static_cast<std::size_t>(axis);
  }
  const json::array& offsets = list(header, "data_offsets");
  const auto first = offsets.at(0).to_number<std::size_t>(), last = offsets.at(1).to_number<std::size_t>();
  if (first > last || last > size || last - first != count * sizeof(double))
    fail("its place does not fit shape " + shape_text(array.shape));
  array.data.resize(count);
  if (count > 0) std::memcpy(array.data.data(), data + first, last - first);
  if (std::any_of(array.data.begin(), array.data.end(), [](double number) { return std::isnan(number); }))
    fail("a number is NaN");
  return array;
}

// Eight bytes with the length of a header in JSON, the header, and the numbers, both little-endian.
void read_arrays(const std::string& path, const std::vector<std::string>& names, ParameterFiles& out) {
  const std::string file = contents(path);
  std::uint64_t length = 0;
  for (int k = 0; k < 8 && file.size() >= 8; ++k) length |= std::uint64_t(static_cast<unsigned char>(file[k])) << 8 * k;
  if (length == 0 || length > file.size() - 8) fail("no safetensors file, or damaged");
  const char* data = file.data() + 8 + length;
  const json::value header = json::parse(std::string_view(file.data() + 8, length));
  for (const auto& [key, value] : header.as_object()) {
    const std::string name = key;
    if (name == "__metadata__") continue;
    if (std::find(names.begin(), names.end(), name) == names.end())
      fail("the array " + name + " is not among those of controller.json");
    try {
      out.arrays[name] = read_array(value.as_object(), data, file.size() - 8 - length);
    } catch (const std::exception& error) {
      fail("the array " + name + ": " + reason(error));
    }
  }
  for (const std::string& name : names)
    if (out.arrays.count(name) == 0) fail("there is no array " + name);
}

// Its errors begin with the path.
template <class Read>
auto reading(const std::string& path, const Read& read) {
  try {
    return read(path);
  } catch (const std::exception& error) {
    fail(path + ": " + reason(error));
  }
}

}  // namespace

double ParameterFiles::number(const std::string& name) const {
  const auto found = numbers.find(name);
  if (found == numbers.end()) fail("there is no number " + name);
  return found->second;
}

int ParameterFiles::integer(const std::string& name, int least) const {
  const double value = number(name);
  if (!(value >= least && value <= std::numeric_limits<int>::max() && value == std::floor(value)))
    fail(name + " is " + number_text(value) + ", expected an integer of at least " + std::to_string(least));
  return static_cast<int>(value);
}

const ParameterArray& ParameterFiles::array(const std::string& name) const {
  const auto found = arrays.find(name);
  if (found == arrays.end()) fail("there is no array " + name);
  return found->second;
}

const ParameterArray& ParameterFiles::array(const std::string& name, const std::vector<long>& shape) const {
  const ParameterArray& found = array(name);
  if (found.shape != shape)
    fail("the array " + name + " has shape " + shape_text(found.shape) + ", expected " + shape_text(shape));
  return found;
}

std::string ParameterFiles::file(const std::string& name) const {
  return reading(folder + "/" + name, [&](const std::string& path) {
    const std::string all = contents(path);
    boost::crc_32_type checksum;
    checksum.process_bytes(all.data(), all.size());
    const auto expected = checksums.find(name);
    if (expected == checksums.end() || expected->second != checksum.checksum())
      fail("it is not the file that belongs to controller.json");
    return path;
  });
}

Settings ParameterFiles::settings() const {
  const auto positive = [this](const char* name, bool or_zero) {
    const double value = number(name);
    if (!std::isfinite(value) || value < 0.0 || (value == 0.0 && !or_zero))
      fail(name + (" is " + number_text(value)) + ", expected a " + (or_zero ? "number >= 0" : "positive number"));
    return value;
  };
  Settings out;
  out.eps_abs = positive("eps_abs", false);
  out.eps_rel = positive("eps_rel", true);
  out.reduced_eps_rel = positive("reduced_eps_rel", true);
  out.eps_gap = positive("eps_gap", true);
  out.max_iter = integer("max_iter", 1);
  out.time_limit = positive("time_limit", true);
  out.closest = number("closest") != 0.0;
  out.threads = 1;
  return out;
}

ParameterFiles read_parameters(const std::string& folder) {
  ParameterFiles out;
  out.folder = folder;
  const auto names =
      reading(folder + "/controller.json", [&](const std::string& path) { return read_description(path, out); });
  reading(folder + "/controller.safetensors", [&](const std::string& path) { read_arrays(path, names, out); });
  return out;
}

}  // namespace qp_control
