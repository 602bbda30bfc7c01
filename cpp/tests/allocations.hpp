// Counts what a piece of code allocates: malloc itself and its relatives, so nothing can hide. For one source file of a
// program; the build with the address sanitizer, which needs malloc for itself, leaves such programs out.
#pragma once

#include <Eigen/Core>  // brings declarations of some of them, which must come first
#include <cstddef>
#include <cstdlib>

namespace {

bool counting = false;
int allocations = 0;

}  // namespace

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* block, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);

void* malloc(std::size_t size) {
  if (counting) ++allocations;
  return __libc_malloc(size);
}

void* calloc(std::size_t count, std::size_t size) {
  if (counting) ++allocations;
  return __libc_calloc(count, size);
}

void* realloc(void* block, std::size_t size) {
  if (counting) ++allocations;
  return __libc_realloc(block, size);
}

// Types of more than 16 bytes' alignment, such as packs, come from here.
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  if (counting) ++allocations;
  return __libc_memalign(alignment, size);
}

int posix_memalign(void** block, std::size_t alignment, std::size_t size) {
  if (counting) ++allocations;
  *block = __libc_memalign(alignment, size);
  return *block == nullptr ? 12 : 0;  // ENOMEM
}
}

namespace {

template <class Body>
int allocations_of(const Body& body) {
  allocations = 0;
  counting = true;
  body();
  counting = false;
  return allocations;
}

}  // namespace
