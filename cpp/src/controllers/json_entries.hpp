// Entries of JSON objects, with errors that name them.
#pragma once

#include <boost/json.hpp>
#include <cmath>
#include <exception>
#include <string>
#include <vector>

#include "errors.hpp"

namespace qp_control {

// What an exception says; those of Boost.JSON say where in Boost it was thrown, too.
inline std::string reason(const std::exception& error) {
  const auto* of_json = dynamic_cast<const boost::system::system_error*>(&error);
  return of_json != nullptr ? of_json->code().message() : error.what();
}

// read(value) of an entry, which throws where the value is not what is expected.
template <class Read>
auto entry(const boost::json::object& from, const char* key, const char* expected, const Read& read) {
  const auto found = from.find(key);
  if (found == from.end()) fail(std::string("there is no ") + key);
  try {
    return read(found->value());
  } catch (const std::exception&) {
    fail(key + (" is " + boost::json::serialize(found->value())) + ", expected " + expected);
  }
}

inline std::string text(const boost::json::object& from, const char* key) {
  return entry(from, key, "a text", [](const auto& value) { return std::string(value.as_string()); });
}

inline bool flag(const boost::json::object& from, const char* key) {
  return entry(from, key, "true or false", [](const auto& value) { return value.as_bool(); });
}

inline int integer(const boost::json::object& from, const char* key) {
  return entry(from, key, "an integer", [](const auto& value) { return value.template to_number<int>(); });
}

inline std::vector<int> integers(const boost::json::object& from, const char* key) {
  return entry(from, key, "a list of integers", [](const auto& value) {
    std::vector<int> out;
    for (const auto& one : value.as_array()) out.push_back(one.template to_number<int>());
    return out;
  });
}

inline double positive_number(const boost::json::object& from, const char* key) {
  return entry(from, key, "a positive number", [](const auto& value) {
    const double number = value.template to_number<double>();
    if (!(number > 0.0 && std::isfinite(number))) fail("not positive");
    return number;
  });
}

inline const boost::json::array& list(const boost::json::object& from, const char* key) {
  return *entry(from, key, "a list", [](const auto& value) { return &value.as_array(); });
}

}  // namespace qp_control
