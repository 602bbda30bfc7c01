#include "qp_control/parameter_files.hpp"

#include <boost/json/src.hpp>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace qp_control {
namespace {

namespace json = boost::json;

constexpr int format = 1;

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw std::runtime_error(path + " " + what);
}

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path, "cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

void read_numbers(const std::string& path, ParameterFiles& out) {
  out.description = contents(path);
  const json::value parsed = json::parse(out.description);
  const json::object& all = parsed.as_object();
  const auto version = all.at("format").to_number<std::int64_t>();
  if (version != format) fail(path, "has format " + std::to_string(version) + ", expected " + std::to_string(format));
  out.kind = all.at("kind").as_string().c_str();
  for (const auto& [name, value] : all)
    if (value.is_number()) out.numbers[name] = value.to_number<double>();
}

// Eight bytes with the length of a header in JSON, the header, and the numbers, both little-endian.
void read_arrays(const std::string& path, ParameterFiles& out) {
  const std::string file = contents(path);
  std::uint64_t length = 0;
  for (int k = 0; k < 8 && file.size() >= 8; ++k) length |= std::uint64_t(static_cast<unsigned char>(file[k])) << 8 * k;
  if (length == 0 || length > file.size() - 8) fail(path, "is no safetensors file, or damaged");
  const char* data = file.data() + 8 + length;
  const std::size_t size = file.size() - 8 - length;
  const json::value header = json::parse(std::string_view(file.data() + 8, length));
  for (const auto& [key, value] : header.as_object()) {
    const std::string name = key;
    if (name == "__metadata__") continue;
    if (value.at("dtype").as_string() != "F64") fail(path, "has an array " + name + " that is not float64");
    ParameterArray array;
    std::size_t count = 1;
    for (const json::value& length_of_axis : value.at("shape").as_array()) {
      array.shape.push_back(length_of_axis.to_number<long>());
      count *= static_cast<std::size_t>(array.shape.back());
      if (array.shape.back() < 0 || count > size) fail(path, "is damaged at " + name);
    }
    const auto first = value.at("data_offsets").at(0).to_number<std::size_t>();
    const auto last = value.at("data_offsets").at(1).to_number<std::size_t>();
    if (first > last || last > size || (last - first) / sizeof(double) != count) fail(path, "is damaged at " + name);
    array.data.resize(count);
    std::memcpy(array.data.data(), data + first, last - first);
    out.arrays[name] = std::move(array);
  }
}

}  // namespace

double ParameterFiles::number(const std::string& name) const {
  const auto found = numbers.find(name);
  if (found == numbers.end()) throw std::runtime_error("the parameters have no number " + name);
  return found->second;
}

const ParameterArray& ParameterFiles::array(const std::string& name, const std::vector<long>& shape) const {
  const auto found = arrays.find(name);
  if (found == arrays.end()) throw std::runtime_error("the parameters have no array " + name);
  if (found->second.shape != shape) throw std::runtime_error("the array " + name + " has an unexpected shape");
  return found->second;
}

ParameterFiles read_parameters(const std::string& folder) {
  ParameterFiles out;
  for (const auto& [name, read] :
       {std::pair("controller.json", &read_numbers), std::pair("controller.safetensors", &read_arrays)}) {
    const std::string path = folder + "/" + name;
    try {
      read(path, out);
    } catch (const boost::system::system_error& error) {
      fail(path, std::string("is damaged: ") + error.what());
    }
  }
  return out;
}

}  // namespace qp_control
