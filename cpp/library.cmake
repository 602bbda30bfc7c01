# The C++ package: find_package(qp_control COMPONENTS solver controllers robot inverse_dynamics).
include(CMakePackageConfigHelpers)
set(_package ${CMAKE_INSTALL_LIBDIR}/cmake/qp_control)

# Boost.JSON reads the headers of exported parameters; who uses the library does not need it.
find_package(Boost 1.80 CONFIG QUIET)
set(_components solver)
if(TARGET Boost::headers)
  list(APPEND _components controllers)
  file(GLOB controller_sources CONFIGURE_DEPENDS src/controllers/*.cpp)
  add_library(qp_control_controllers STATIC ${controller_sources})
  include_headers(qp_control_controllers)
  target_compile_options(qp_control_controllers PRIVATE -Wall -Wextra)
  target_link_libraries(qp_control_controllers PUBLIC qp_control_solver PRIVATE $<BUILD_INTERFACE:Boost::headers>)
else()
  message(STATUS "Boost 1.80 or newer is not found: without qp_control::controllers")
endif()
if(QP_CONTROL_ROBOT)
  list(APPEND _components robot)
  if(TARGET Boost::headers)
    list(APPEND _components inverse_dynamics)
    file(GLOB control_sources CONFIGURE_DEPENDS src/control/*.cpp)
    add_library(qp_control_inverse_dynamics STATIC ${control_sources})
    target_compile_options(qp_control_inverse_dynamics PRIVATE -Wall -Wextra)
    target_link_libraries(qp_control_inverse_dynamics PUBLIC qp_control_robot qp_control_controllers
                                                      PRIVATE $<BUILD_INTERFACE:Boost::headers>)
  endif()
endif()

# The layout of the solver's types follows from Eigen's alignment, which depends on vector flags: that of this build goes
# for whoever uses it, whatever his own flags are. Beside Pinocchio it is given already.
if(NOT TARGET qp_control_robot)
  include(CheckCXXSourceCompiles)
  set(CMAKE_REQUIRED_LIBRARIES Eigen3::Eigen)
  set(_alignment 16)
  foreach(bytes 32 64)
    check_cxx_source_compiles("#include <Eigen/Core>
      static_assert(EIGEN_MAX_ALIGN_BYTES >= ${bytes}, \"\"); int main() {}" QP_CONTROL_ALIGNS_BY_${bytes})
    if(QP_CONTROL_ALIGNS_BY_${bytes})
      set(_alignment ${bytes})
    endif()
  endforeach()
  target_compile_definitions(qp_control_solver INTERFACE EIGEN_MAX_ALIGN_BYTES=${_alignment})
endif()

# What is exported of a target of another file needs that file: solver.cmake has the threads of all.
install(TARGETS qp_control_batch EXPORT qp_control_solver ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(component IN LISTS _components)
  set_target_properties(qp_control_${component} PROPERTIES EXPORT_NAME ${component} CXX_VISIBILITY_PRESET hidden)
  install(TARGETS qp_control_${component} EXPORT qp_control_${component}
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT qp_control_${component} FILE ${component}.cmake NAMESPACE qp_control:: DESTINATION ${_package})
endforeach()
set_target_properties(qp_control_batch PROPERTIES EXPORT_NAME batch)
install(DIRECTORY include/qp_control DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

configure_package_config_file(qp_controlConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/qp_controlConfig.cmake
                              INSTALL_DESTINATION ${_package})
# Before 1.0 each minor version may change what is declared in the headers.
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/qp_controlConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/qp_controlConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/qp_controlConfigVersion.cmake DESTINATION ${_package})
