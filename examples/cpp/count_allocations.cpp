#include "count_allocations.hpp"

#include <cstdlib>

long allocations = 0;
bool counting_allocations = false;

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)

bool can_count_allocations() { return true; }

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* block, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);

void* malloc(std::size_t size) {
  allocations += counting_allocations;
  return __libc_malloc(size);
}

void* calloc(std::size_t count, std::size_t size) {
  allocations += counting_allocations;
  return __libc_calloc(count, size);
}

void* realloc(void* block, std::size_t size) {
  allocations += counting_allocations;
  return __libc_realloc(block, size);
}

void* aligned_alloc(std::size_t alignment, std::size_t size) {
  allocations += counting_allocations;
  return __libc_memalign(alignment, size);
}

int posix_memalign(void** block, std::size_t alignment, std::size_t size) {
  allocations += counting_allocations;
  *block = __libc_memalign(alignment, size);
  return *block == nullptr ? 12 : 0;  // ENOMEM
}
}

#else

bool can_count_allocations() { return false; }

#endif
