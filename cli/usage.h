// Sentences about wrong command lines, in the form of all other errors.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace kineograph::cli {

/// Arguments as the program takes them: `help COMMAND` becomes `COMMAND --help`, and nothing at all `--help`. Throws
/// CLI::ParseError for a command that is none.
std::vector<std::string> normalised(const CLI::App& program, std::vector<std::string> arguments);

/// The sentence about arguments that were refused, and the command whose help has more.
std::string explain(const CLI::App& program, const CLI::ParseError& error);

}  // namespace kineograph::cli
