// Memory of large results, used again when their arrays are gone: fresh pages from the operating system cost as much as
// filling them. At most 64 MiB are kept. Only with the GIL held, which is what guards the list.
#pragma once

#include <pybind11/numpy.h>

#include <cstdlib>
#include <new>
#include <vector>

namespace qp_control {

class Recycled {
 public:
  // An array that is not initialised.
  static pybind11::array_t<double, pybind11::array::c_style> array(const std::vector<pybind11::ssize_t>& shape) {
    std::size_t size = sizeof(double);
    for (const auto extent : shape) size *= extent;
    if (size < smallest) return pybind11::array_t<double, pybind11::array::c_style>(shape);
    auto* block = take((size + alignment - 1) / alignment * alignment);
    const pybind11::capsule owner(block, [](void* p) { give_back(static_cast<Block*>(p)); });
    return pybind11::array_t<double, pybind11::array::c_style>(shape, static_cast<double*>(block->data), owner);
  }

 private:
  struct Block {
    void* data;
    std::size_t size;
  };
  static constexpr std::size_t smallest = 1 << 16, most_kept = 1 << 26, alignment = 64;

  // Never destroyed: arrays may outlive everything else in the process.
  static std::vector<Block*>& kept() {
    static auto* list = new std::vector<Block*>;
    return *list;
  }

  static Block* take(std::size_t size) {
    auto& list = kept();
    for (std::size_t k = list.size(); k-- > 0;) {
      Block* block = list[k];
      if (block->size != size) continue;
      list.erase(list.begin() + k);
      return block;
    }
    void* data = std::aligned_alloc(alignment, size);
    if (data == nullptr) throw std::bad_alloc();
    return new Block{data, size};
  }

  // The oldest go first.
  static void give_back(Block* block) {
    auto& list = kept();
    if (block->size > most_kept) {
      std::free(block->data);
      delete block;
      return;
    }
    list.push_back(block);
    std::size_t total = 0, first = list.size();
    while (first > 0 && total + list[first - 1]->size <= most_kept) total += list[--first]->size;
    for (std::size_t k = 0; k < first; ++k) {
      std::free(list[k]->data);
      delete list[k];
    }
    list.erase(list.begin(), list.begin() + first);
  }
};

}  // namespace qp_control
