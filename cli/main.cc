// kineograph: the command line. stdout carries data or nothing; messages go to stderr. Exit codes: 0 done, 1 failed,
// 2 wrong usage, 128 + signal for a training or restoring that a signal ended.
#include <algorithm>
#include <iostream>
#include <new>

#include "base/atomic_file.h"
#include "commands.h"
#include "job.h"
#include "kineograph/kineograph.h"
#include "messages.h"
#include "pages.h"
#include "signals.h"
#include "usage.h"

namespace kineograph::cli {
namespace {

std::string version_text() {
  std::string text = "kineograph " + std::string(version());
  for (const std::string& engine : engines()) {
    text += "\nengine " + engine + ":";
    for (const std::string& isa : instruction_sets(engine)) text += " " + isa;
  }
  return text;
}

/// Commands whose processes share nothing say so where mpirun starts several. Jobs of a film that has a plan differ.
void warn_of_jobs(CLI::App& program) {
  for (const char* name : {"init", "inspect", "convert", "restore", "bench"}) {
    CLI::App* command = program.get_subcommand(name);
    command->parse_complete_callback([command] {
      const CLI::Option* plan = command->get_option_no_throw("--plan");
      if (plan == nullptr || plan->count() == 0) warn_of_job(command->get_name());
    });
  }
}

int run_program(std::vector<std::string> arguments) {
  CLI::App program("diffusers' TransformerTemporalModel: make, inspect, convert, run, train, restore video.",
                   "kineograph");
  program.set_version_flag("--version", version_text, "Version, engines and their instruction sets, best first");
  add_pages(program);
  program.require_subcommand(1);
  program.footer("kineograph help COMMAND explains a command and gives an example.");
  add_init(program);
  add_inspect(program);
  add_convert(program);
  add_run(program);
  add_restore(program);
  add_train(program);
  add_bench(program);
  warn_of_jobs(program);
  try {
    arguments = normalised(program, std::move(arguments));
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
    program.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // help and version
    // Arguments may be names of strangers' files.
    say("error: " + printable(explain(program, error)));
    return 2;
  }
  std::cout.flush();
  if (!std::cout) throw IoError("stdout", "to write on", std::error_code(errno, std::generic_category()));
  return 0;
}

}  // namespace
}  // namespace kineograph::cli

int main(int argc, char** argv) {
  using kineograph::cli::say;
  std::ios::sync_with_stdio(false);
  kineograph::cli::explain_changed_files();
  kineograph::remove_unfinished_files_on_signals();
  try {
    return kineograph::cli::run_program({argv + 1, argv + std::max(argc, 1)});
  } catch (const kineograph::cli::ExitCode& exit) {
    return exit.code;
  } catch (const std::bad_alloc&) {
    say("error: out of memory");
  } catch (const std::exception& error) {
    say(std::string("error: ") + error.what());
  }
  return 1;
}
