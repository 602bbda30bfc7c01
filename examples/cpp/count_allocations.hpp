// Counts what a part of a program allocates, where the C library lets malloc be replaced (glibc).
#pragma once

// While counting is on, calls of malloc and its relatives by any thread.
extern long allocations;
extern bool counting_allocations;
bool can_count_allocations();
