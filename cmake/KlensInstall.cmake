# Install rules: the headers, and the package that find_package(klens) reads. Nothing installed depends on the machine.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(klens_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/klens")

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/klens" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(TARGETS klens EXPORT klensTargets)
install(EXPORT klensTargets NAMESPACE klens:: DESTINATION "${klens_package_dir}")
if(TARGET klens_io)
  install(TARGETS klens_io EXPORT klensIoTargets)
  install(EXPORT klensIoTargets NAMESPACE klens:: DESTINATION "${klens_package_dir}")
endif()

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/klensConfig.cmake.in" "${PROJECT_BINARY_DIR}/klensConfig.cmake"
                              INSTALL_DESTINATION "${klens_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/klensConfigVersion.cmake" COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/klensConfig.cmake" "${PROJECT_BINARY_DIR}/klensConfigVersion.cmake"
        DESTINATION "${klens_package_dir}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/cmake/" DESTINATION "${klens_package_dir}"
        FILES_MATCHING PATTERN "*" PATTERN "klensConfig.cmake.in" EXCLUDE PATTERN "KlensInstall.cmake" EXCLUDE)
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/doc/klens")
