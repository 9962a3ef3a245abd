// The subcommands. Each adds itself, with what it does, to the program.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

#include "base/printable.h"
#include "kineograph/config.h"

namespace kineograph::cli {

void add_bench(CLI::App& program);
void add_convert(CLI::App& program);
void add_init(CLI::App& program);
void add_inspect(CLI::App& program);
void add_restore(CLI::App& program);
void add_run(CLI::App& program);
void add_train(CLI::App& program);

/// Thrown to leave the program with a code of its own; what there is to say has been said.
struct ExitCode {
  int code;
};

/// Says something on stderr, as printable_lines makes it.
void say(std::string_view message);
/// A handler that says each warning once.
WarningHandler warn_once();

}  // namespace kineograph::cli
