# Batched rigid-body dynamics on Pinocchio, as a library and as a Python module.
find_package(pinocchio 4.1 CONFIG REQUIRED)

file(GLOB robot_sources CONFIGURE_DEPENDS src/robot/*.cpp)
add_library(qp_control_robot STATIC ${robot_sources})
include_headers(qp_control_robot)
# Vector flags change Eigen's alignment and with it the binary interface of Pinocchio's library: who uses this one has
# the alignment that is Eigen's own without such flags, whatever his flags are.
set(pinocchio_alignment EIGEN_MAX_ALIGN_BYTES=16 EIGEN_MALLOC_ALREADY_ALIGNED=1)
target_compile_definitions(qp_control_robot PUBLIC ${pinocchio_alignment})
target_link_libraries(qp_control_robot PUBLIC pinocchio::pinocchio_default qp_control_batch)
target_precompile_headers(qp_control_robot PRIVATE <pinocchio/multibody.hpp> <pinocchio/algorithm/jacobian.hpp>)
set_target_properties(qp_control_robot PROPERTIES CXX_VISIBILITY_PRESET hidden)

if(QP_CONTROL_PYTHON)
  set(_boost_python python${Python_VERSION_MAJOR}${Python_VERSION_MINOR})
  find_package(Boost REQUIRED COMPONENTS ${_boost_python})
  pybind11_add_module(_robot NO_EXTRAS bindings/robot.cpp bindings/robot_motions.cpp
                      bindings/robot_contact.cpp bindings/robot_whole_body.cpp bindings/robot_model.cpp)
  target_link_libraries(_robot PRIVATE qp_control_robot pinocchio::pinocchio_parsers Boost::${_boost_python})
  # Beside the wheel `pin`, or, built without wheels, where Pinocchio's libraries were found.
  if(CMEEL)
    set(_here $<IF:$<PLATFORM_ID:Darwin>,@loader_path,$ORIGIN>)
    set_target_properties(_robot PROPERTIES INSTALL_RPATH "${_here}/../cmeel.prefix/lib")
  else()
    set_target_properties(_robot PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
  endif()
  install(TARGETS _robot LIBRARY DESTINATION qp_control)
endif()

if(QP_CONTROL_BENCHMARKS)
  add_executable(pinocchio_loop ../benchmarks/pinocchio_loop.cpp)
  target_link_libraries(pinocchio_loop PRIVATE pinocchio::pinocchio_default)
endif()
