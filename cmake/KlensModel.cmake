# klens_add_model(TARGET PLAN plan.hpp [VALUE klens_plan::model_plan] [NAME name] [LEVELS ref avx2 ...])
#
# Makes the static library TARGET: the model compiled for the plan, per ISA level (flags: KlensIsaFlags.cmake) one translation
# unit with one explicit instantiation of the forward pass, which exports one constant table, and three units with the linears
# that the plan uses.
# Users link TARGET and
#
#   #include <NAME.hpp>                              generated; NAME is TARGET unless given, a C++ identifier
#   klens_model::NAME::tables()                      the tables, for klens::choose_specialised(tables, request)
#
# VALUE is the constant in plan.hpp, of type klens::Plan<N>. LEVELS: all that the compiler knows but avx512_bf16, unless given.
# A plan that breaks a rule, or a flag that does not give the level, is a compile error that says so.
include_guard(GLOBAL)

function(klens_add_model target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "PLAN;VALUE;NAME" "LEVELS")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "klens_add_model(${target}): unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT arg_PLAN)
    message(FATAL_ERROR "klens_add_model(${target}): PLAN plan.hpp is missing (klens plan writes one)")
  endif()
  get_filename_component(plan "${arg_PLAN}" ABSOLUTE)
  if(NOT EXISTS "${plan}")
    message(FATAL_ERROR "klens_add_model(${target}): no such file: ${plan}")
  endif()
  if(NOT arg_VALUE)
    set(arg_VALUE klens_plan::model_plan)
  endif()
  if(NOT arg_NAME)
    string(MAKE_C_IDENTIFIER "${target}" arg_NAME)
  endif()
  # Here a level has no base: all that the plan needs is compiled for it.
  klens_checked_levels("klens_add_model(${target})" "${arg_LEVELS}" levels)
  if(NOT arg_LEVELS)
    list(REMOVE_ITEM levels avx512_bf16)  # its overrides serve the policy `fast`, which a specialised program has not
  endif()

  set(folder "${CMAKE_CURRENT_BINARY_DIR}/klens_model/${target}")
  set(objects "")
  set(declarations "")
  set(pointers "")
  foreach(level IN LISTS levels)
    set(source "${folder}/${arg_NAME}_${level}.cpp")
    file(CONFIGURE OUTPUT "${source}" @ONLY CONTENT [=[
// Written by klens_add_model(): @arg_VALUE@ on level @level@.
#include <klens/model/fixed.hpp>

#include "@plan@"

static_assert(klens::level_of_this_unit == klens::Level::@level@, "klens_add_model: the compiler flags of this unit do not give level @level@");

namespace {
struct ThePlan { static constexpr auto plan = @arg_VALUE@; };
}  // namespace

template struct klens::FixedProgram<ThePlan>;

namespace klens_model::@arg_NAME@ {
extern const klens::SpecialisedTable @level@;
constinit const klens::SpecialisedTable @level@ = klens::specialised_table<ThePlan>(klens::Level::@level@, "@arg_VALUE@");
}  // namespace klens_model::@arg_NAME@
]=])
    set(sources "${source}")
    foreach(part RANGE 0 2)
      set(source "${folder}/${arg_NAME}_${level}_linears_${part}.cpp")
      file(CONFIGURE OUTPUT "${source}" @ONLY CONTENT [=[
// Written by klens_add_model(): linears of @arg_VALUE@ on level @level@, part @part@.
#include <klens/model/fixed_linears.hpp>

#include "@plan@"

static_assert(@part@ < klens::fixed_linear_parts);

namespace {
struct ThePlan { static constexpr auto plan = @arg_VALUE@; };
KLENS_USED constinit const auto linears = klens::fixed::linears_of_part<ThePlan, @part@>();
}  // namespace
]=])
      list(APPEND sources "${source}")
    endforeach()
    add_library(${target}_${level} OBJECT ${sources})
    target_link_libraries(${target}_${level} PRIVATE klens::klens)
    klens_level_target(${target}_${level} ${level})
    list(APPEND objects $<TARGET_OBJECTS:${target}_${level}>)
    string(APPEND declarations "extern const klens::SpecialisedTable ${level};\n")
    string(APPEND pointers "&${level}, ")
  endforeach()

  file(CONFIGURE OUTPUT "${folder}/${arg_NAME}.hpp" @ONLY CONTENT [=[
// Written by klens_add_model(): the compiled levels of @arg_VALUE@.
#pragma once

#include <klens/model/specialised.hpp>

#include <span>

namespace klens_model::@arg_NAME@ {
/// One table per compiled level, weakest first.
std::span<const klens::SpecialisedTable* const> tables();
}  // namespace klens_model::@arg_NAME@
]=])
  file(CONFIGURE OUTPUT "${folder}/${arg_NAME}.cpp" @ONLY CONTENT [=[
// Written by klens_add_model().
#include "@arg_NAME@.hpp"

namespace klens_model::@arg_NAME@ {
@declarations@
std::span<const klens::SpecialisedTable* const> tables() {
  static constexpr const klens::SpecialisedTable* all[] = {@pointers@};
  return all;
}
}  // namespace klens_model::@arg_NAME@
]=])
  add_library(${target} STATIC ${objects} "${folder}/${arg_NAME}.cpp")
  target_link_libraries(${target} PUBLIC klens::klens)
  target_include_directories(${target} PUBLIC "${folder}")
endfunction()
