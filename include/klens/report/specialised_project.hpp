// `klens build`: writes a small CMake project for a plan (plan.hpp, CMakeLists.txt, main.cpp) and builds it. What is written is
// what a user would write by hand, and may be edited and built again without klens' program.
#pragma once

#include <klens/io/plan_json.hpp>
#include <klens/isa/level.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace klens {

struct ProjectOptions {
  std::string name = "specialised";      // of the program; a C++ identifier
  std::vector<std::string> levels;       // empty: all that the compiler knows
  std::string klens_root;                // klens' source tree, or the prefix it is installed under; empty: where CMake finds it
  int jobs = 2;                          // units compiled at once: each takes up to 1.5 GB
};

namespace detail {

/// A CMake bracket argument: nothing in it is expanded.
inline std::string cmake_text(const std::string& text) {
  std::string fence;
  while (text.find("]" + fence + "]") != std::string::npos || (!text.empty() && text.back() == ']' && fence.empty())) fence += '=';
  return "[" + fence + "[" + text + "]" + fence + "]";
}

/// Runs a program found on PATH, its output appended to `log`. The exit status, or an error when it cannot be started.
inline Result<int> run_program(const std::vector<std::string>& arguments, const std::string& log) {
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  pid_t child = 0;
  const int number = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (number != 0) return Error{ErrorCode::missing, arguments[0], "a program on PATH", std::strerror(number)};
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return io_error(arguments[0], "cannot wait for it", errno);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// A program of this name lies on PATH.
inline bool on_path(std::string_view name) {
  const char* path = std::getenv("PATH");
  const std::string_view folders = path != nullptr ? path : "";
  for (std::size_t at = 0; at <= folders.size();) {
    const std::size_t end = std::min(folders.find(':', at), folders.size());
    const std::string file = std::string(folders.substr(at, end - at)) + "/" + std::string(name);
    if (access(file.c_str(), X_OK) == 0) return true;
    at = end + 1;
  }
  return false;
}

/// The line of a build log that says what went wrong: the first with "error", else the last that is not empty.
inline std::string first_complaint(const std::string& log) {
  const auto text = read_text(log, std::size_t(64) << 20);
  if (!text) return text.error().message();
  std::string last;
  for (std::size_t at = 0; at < text->size();) {
    const std::size_t end = std::min(text->find('\n', at), text->size());
    const std::string line = text->substr(at, end - at);
    if (line.find("error") != std::string::npos || line.find("Error") != std::string::npos) return clip(line, 300);
    if (!line.empty()) last = line;
    at = end + 1;
  }
  return clip(last, 300);
}

}  // namespace detail

/// Writes DIR/plan.hpp, plan.json, CMakeLists.txt and main.cpp.
inline Result<void> write_specialised_project(const std::string& folder, const PlanDocument& document,
                                              const ProjectOptions& options = {}) {
  if (!is_identifier(options.name))
    return Error{ErrorCode::usage, folder + ": name of the program", "a C++ identifier", "'" + options.name + "'"};
  std::string levels;
  for (const std::string& level : options.levels) {
    if (!parse_level(level)) {
      std::string known;
      for (const Level l : all_levels) known += (known.empty() ? "" : " ") + std::string(name_of(l));
      return Error{ErrorCode::usage, folder + ": level", known, "'" + detail::clip(level, 40) + "'"};
    }
    levels += " " + level;
  }
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  if (code) return Error{ErrorCode::io, folder, "a folder that can be made", code.message()};

  std::string find_klens = "find_package(klens CONFIG REQUIRED COMPONENTS io)\n";
  if (!options.klens_root.empty()) {
    const std::filesystem::path root = std::filesystem::absolute(options.klens_root, code);
    const std::string quoted = detail::cmake_text(root.string());
    if (std::filesystem::exists(root / "CMakeLists.txt", code))
      find_klens = "add_subdirectory(" + quoted + " klens EXCLUDE_FROM_ALL)\n";
    else find_klens = "list(APPEND CMAKE_PREFIX_PATH " + quoted + ")\n" + find_klens;
  }
  const std::string& name = options.name;
  KLENS_OK(write_plan_header(folder + "/plan.hpp", document));
  KLENS_OK(write_plan(folder + "/plan.json", document));
  KLENS_OK(write_file(folder + "/CMakeLists.txt",
      "# A program specialised to plan.hpp. Build: cmake -S . -B build && cmake --build build\n"
      "cmake_minimum_required(VERSION 3.25)\nproject(" + name + " LANGUAGES CXX)\n"
      "if(NOT CMAKE_BUILD_TYPE)\n  set(CMAKE_BUILD_TYPE Release)\nendif()\n" + find_klens + "\n"
      "klens_add_model(" + name + "_model PLAN plan.hpp NAME " + name + "_model" + (levels.empty() ? "" : " LEVELS" + levels) + ")\n"
      "add_executable(" + name + " main.cpp)\n"
      "target_link_libraries(" + name + " PRIVATE " + name + "_model klens::io)\n"
      "set_target_properties(" + name + " PROPERTIES RUNTIME_OUTPUT_DIRECTORY \"${CMAKE_BINARY_DIR}\")\n"));
  return write_file(folder + "/main.cpp",
      "// The program of one plan: info, eval, generate, logits, speed. `" + name + " help` says how.\n"
      "#include <klens/report/specialised_program.hpp>\n\n#include <" + name + "_model.hpp>\n\n"
      "int main(int argc, char** argv) { return klens::specialised_main(argc, argv, klens_model::" + name + "_model::tables()); }\n");
}

/// Configures and builds the project of a folder; returns the path of the program. Output of CMake and the compiler goes to
/// DIR/build.log; an error quotes the line of it that complains.
inline Result<std::string> build_specialised_project(const std::string& folder, const ProjectOptions& options = {}) {
  const std::string log = folder + "/build.log", build = folder + "/build";
  unlink(log.c_str());
  std::vector<std::string> configure = {"cmake", "-S", folder, "-B", build};
  std::error_code code;
  // CMake's own default is make, which a machine with ninja may lack; a build that exists keeps its generator.
  if (detail::on_path("ninja") && !std::filesystem::exists(build + "/build.ninja", code) && !std::filesystem::exists(build + "/Makefile", code)) {
    std::filesystem::remove_all(build, code);   // of a configure step that failed
    configure.insert(configure.end(), {"-G", "Ninja"});
  }
  const std::vector<std::string> steps[] = {
      configure,
      {"cmake", "--build", build, "--target", options.name, "--parallel", std::to_string(std::max(options.jobs, 1))}};
  for (const auto& step : steps) {
    KLENS_TRY(const int status, detail::run_program(step, log));
    if (status != 0)
      return Error{ErrorCode::unsupported, log, "a build that succeeds",
                   "status " + std::to_string(status) + ": " + detail::first_complaint(log)};
  }
  return build + "/" + options.name;
}

}  // namespace klens
