# The robot module: batched rigid-body dynamics on the libraries inside the `pin` wheel.
find_package(pinocchio 4.1 CONFIG REQUIRED)
set(_boost_python python${Python_VERSION_MAJOR}${Python_VERSION_MINOR})
find_package(Boost REQUIRED COMPONENTS ${_boost_python})

file(GLOB robot_sources CONFIGURE_DEPENDS src/robot/*.cpp)
pybind11_add_module(_robot NO_EXTRAS bindings/robot.cpp bindings/robot_motions.cpp
                    bindings/robot_contact.cpp bindings/robot_whole_body.cpp ${robot_sources})
target_include_directories(_robot PRIVATE include)
# Vector flags change Eigen's alignment and with it the binary interface of Pinocchio's library.
target_compile_definitions(_robot PRIVATE EIGEN_MAX_ALIGN_BYTES=16 EIGEN_MALLOC_ALREADY_ALIGNED=1)
target_link_libraries(_robot PRIVATE pinocchio::pinocchio_default pinocchio::pinocchio_parsers
                                     Boost::${_boost_python} qp_control_batch)
set_target_properties(_robot PROPERTIES INSTALL_RPATH "$ORIGIN/../cmeel.prefix/lib")
install(TARGETS _robot LIBRARY DESTINATION qp_control)

if(QP_CONTROL_BENCHMARKS)
  add_executable(pinocchio_loop ../benchmarks/pinocchio_loop.cpp)
  target_link_libraries(pinocchio_loop PRIVATE pinocchio::pinocchio_default)
endif()
