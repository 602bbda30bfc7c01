# The C++ package: find_package(qp_control COMPONENTS solver controllers robot).
include(CMakePackageConfigHelpers)
set(_package ${CMAKE_INSTALL_LIBDIR}/cmake/qp_control)

# Boost.JSON reads the headers of exported parameters; who uses the library does not need it.
find_package(Boost 1.75 CONFIG QUIET)
set(_components solver)
if(TARGET Boost::headers)
  list(APPEND _components controllers)
  file(GLOB controller_sources CONFIGURE_DEPENDS src/controllers/*.cpp)
  add_library(qp_control_controllers STATIC ${controller_sources})
  include_headers(qp_control_controllers)
  target_compile_options(qp_control_controllers PRIVATE -Wall -Wextra)
  target_link_libraries(qp_control_controllers PUBLIC qp_control_solver PRIVATE $<BUILD_INTERFACE:Boost::headers>)
else()
  message(STATUS "Boost 1.75 or newer is not found: without qp_control::controllers")
endif()
if(QP_CONTROL_ROBOT)
  list(APPEND _components robot)
endif()

# What is exported of a target of another file needs that file: solver.cmake has the threads of all.
install(TARGETS qp_control_batch EXPORT qp_control_solver ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(component IN LISTS _components)
  set_target_properties(qp_control_${component} PROPERTIES EXPORT_NAME ${component})
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
