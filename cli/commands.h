// The subcommands. Each adds itself, with its options and its help, to the program.
#pragma once

#include <CLI/CLI.hpp>

namespace kineograph::cli {

void add_bench(CLI::App& program);
void add_convert(CLI::App& program);
void add_init(CLI::App& program);
void add_inspect(CLI::App& program);
void add_restore(CLI::App& program);
void add_run(CLI::App& program);
void add_train(CLI::App& program);

/// Thrown to leave the program with a code of its own, after the reason was said.
struct ExitCode {
  int code;
};

}  // namespace kineograph::cli
