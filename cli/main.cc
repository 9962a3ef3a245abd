// kineograph: the command line. stdout carries data or nothing; messages go to stderr. Exit codes: 0 done, 1 failed,
// 2 wrong usage, 128 + signal for a training run that a signal ended.
#include <algorithm>
#include <iostream>
#include <memory>
#include <new>
#include <set>
#include <sstream>

#include "commands.h"
#include "kineograph/kineograph.h"
#include "signals.h"

namespace kineograph::cli {

void say(std::string_view message) { std::cerr << "kineograph: " << printable_lines(message) << '\n'; }

WarningHandler warn_once() {
  return [said = std::make_shared<std::set<std::string, std::less<>>>()](std::string_view message) {
    if (said->emplace(message).second) say("warning: " + std::string(message));
  };
}

namespace {

std::string version_text() {
  std::string text = "kineograph " + std::string(version());
  for (const std::string& engine : engines()) {
    text += "\nengine " + engine + ":";
    for (const std::string& isa : instruction_sets(engine)) text += " " + isa;
  }
  return text;
}

int run_program(int argc, char** argv) {
  CLI::App program("diffusers' TransformerTemporalModel: make, inspect, convert and run it.", "kineograph");
  program.set_version_flag("--version", version_text, "Version, engines and their instruction sets, best first");
  program.require_subcommand(1);
  program.footer("kineograph COMMAND --help explains a command and gives an example.");
  add_init(program);
  add_inspect(program);
  add_convert(program);
  add_run(program);
  add_restore(program);
  add_train(program);
  add_bench(program);
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // help and version
    // Arguments may be names of strangers' files.
    std::ostringstream out, said;
    program.exit(error, out, said);
    std::string text = said.str();
    while (text.ends_with('\n')) text.pop_back();
    say(text);
    return 2;
  }
  std::cout.flush();
  if (!std::cout) throw IoError("stdout", "to write on", "an error of the operating system");
  return 0;
}

}  // namespace
}  // namespace kineograph::cli

int main(int argc, char** argv) {
  using kineograph::cli::say;
  std::ios::sync_with_stdio(false);
  kineograph::cli::explain_changed_files();
  try {
    return kineograph::cli::run_program(argc, argv);
  } catch (const kineograph::cli::ExitCode& exit) {
    return exit.code;
  } catch (const std::bad_alloc&) {
    say("error: out of memory");
  } catch (const std::exception& error) {
    say(std::string("error: ") + error.what());
  }
  return 1;
}
