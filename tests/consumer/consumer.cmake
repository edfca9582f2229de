# Other people's projects, as they would use klens: the installed package, and the source folder by FetchContent.
foreach(way IN ITEMS find_package headers_only fetch_content)
  add_test(NAME consumer.${way}
    COMMAND ${CMAKE_COMMAND} -DWAY=${way} "-DSOURCE=${PROJECT_SOURCE_DIR}" "-DBUILD=${PROJECT_BINARY_DIR}"
            "-DWORK=${CMAKE_CURRENT_BINARY_DIR}/consumer_${way}" "-DCOMPILER=${CMAKE_CXX_COMPILER}"
            "-DGENERATOR=${CMAKE_GENERATOR}" "-DLAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER}"
            -P "${CMAKE_CURRENT_LIST_DIR}/run.cmake")
  set_tests_properties(consumer.${way} PROPERTIES LABELS "consumer" TIMEOUT 900)
endforeach()
