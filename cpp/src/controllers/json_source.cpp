// Boost.JSON in a file of its own: the linker leaves it out where a program brings its own.
#include <boost/json/src.hpp>
