# The program klens as a user meets it: right calls, wrong calls, broken files, a run that is killed and goes on.
if(TARGET klens_program)
  foreach(part commands errors resume same_bits)
    add_test(NAME program.${part} COMMAND sh "${CMAKE_CURRENT_SOURCE_DIR}/program/${part}.sh" $<TARGET_FILE:klens_program> "${PROJECT_SOURCE_DIR}"
             "${CMAKE_CURRENT_BINARY_DIR}/program/${part}")
    set_tests_properties(program.${part} PROPERTIES LABELS program TIMEOUT 600 SKIP_RETURN_CODE 77)
  endforeach()
endif()
