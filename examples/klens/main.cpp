// klens: measure, plan, specialise and prove mixed precision of hybrid SSM-Transformer models. A thin main over the headers.
#include "common.hpp"

#include <klens/version.hpp>

int main(int argc, char** argv) {
  using namespace klens::cli;
  CLI::App app{"klens measures how much every component of a hybrid SSM-Transformer suffers from quantization,\n"
               "plans a mixed precision under a budget, and runs the model in it.", "klens"};
  app.set_version_flag("--version", "klens " KLENS_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);

  int status = 0;
  for (AddCommand add : {add_doctor, add_inspect, add_measure, add_audit, add_compare, add_plan, add_pack, add_build, add_eval,
                         add_generate, add_bench, add_report, add_logits, add_tokenize})
    add(app, status);

  catch_interrupts();
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help, --version
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    std::string what = e.what();
    const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
    if (argc > 1 && argv[1][0] != '-' && std::none_of(commands.begin(), commands.end(), [&](const CLI::App* c) { return c->get_name() == argv[1]; }))
      what = fmt::format("unknown command '{}'", argv[1]);
    for (char& c : what)
      if (c == '\n') c = ' ';
    fmt::print(stderr, "klens: {} (see klens --help)\n", what);
    return 2;
  }
  return status;
}
