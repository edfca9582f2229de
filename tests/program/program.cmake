# The program klens as a user meets it: right calls, wrong calls, broken files, a run that is killed and goes on.
# Every kernel of the registry on every level, one token: the bits of level ref, then a moment of timing.
if(TARGET klens_bench)
  add_test(NAME program.klens_bench COMMAND klens_bench "--benchmark_filter=/1$" --benchmark_min_time=0.001)
  set_tests_properties(program.klens_bench PROPERTIES LABELS program TIMEOUT 600)
endif()

if(TARGET klens_program)
  foreach(part commands errors resume same_bits policy generate chat families real_checkpoint bench)
    add_test(NAME program.${part} COMMAND sh "${CMAKE_CURRENT_SOURCE_DIR}/program/${part}.sh" $<TARGET_FILE:klens_program> "${PROJECT_SOURCE_DIR}"
             "${CMAKE_CURRENT_BINARY_DIR}/program/${part}")
    set_tests_properties(program.${part} PROPERTIES LABELS program TIMEOUT 600 SKIP_RETURN_CODE 77)
  endforeach()
endif()
