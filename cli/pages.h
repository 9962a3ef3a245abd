// The manual page and the shells' completions, made from the parser's own options.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

namespace kineograph::cli {

/// kineograph(1) in roff.
std::string manual_page(const CLI::App& program);

/// The script that completes command lines in "bash", "zsh" or "fish".
std::string completion(const CLI::App& program, std::string_view shell);

/// Adds --man and --completion, which print these pages in place of a command.
void add_pages(CLI::App& program);

}  // namespace kineograph::cli
