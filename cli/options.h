// Options that commands share: each is named, checked and explained once.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "kineograph/model.h"

namespace kineograph::cli {

// Checks of a value as it was typed. Their messages say in words what was expected and what was found.

/// A whole number from `least` on.
CLI::Validator whole_number(std::int64_t least);
/// A whole number from `least` to `most`.
CLI::Validator whole_number(std::int64_t least, std::int64_t most);
/// A finite number from `least` to `most`.
CLI::Validator number(double least, double most);
/// One of `names`.
CLI::Validator one_of(std::vector<std::string> names);

/// More about a value that is none of the names, as ". A sentence without its full stop"; may be empty.
using Explain = std::string (*)(const std::string& value);
/// Adds an option for one of `names`, shown in the help.
CLI::Option* add_choice(CLI::App& command, const std::string& name, std::string& value, std::vector<std::string> names,
                        const std::string& help, Explain explain = nullptr);
/// Adds an option for a whole number from `least` on, or to `most`.
template <class T>
CLI::Option* add_whole_number(CLI::App& command, const std::string& name, T& value, std::int64_t least,
                              std::int64_t most, const std::string& help) {
  return command.add_option(name, value, help)->check(whole_number(least, most))->type_name("N");
}
template <class T>
CLI::Option* add_whole_number(CLI::App& command, const std::string& name, T& value, std::int64_t least,
                              const std::string& help) {
  return command.add_option(name, value, help)->check(whole_number(least))->type_name("N");
}

constexpr int kMostThreads = 65536;
/// "auto" and the engines of this program.
std::vector<std::string> engine_names();

/// How a model computes: --engine, --isa, --dtype, --threads.
struct EngineArguments {
  std::string engine = "auto", isa = {}, dtype = "auto";
  int threads = 0;

  /// `on_warning` says each warning once.
  ModelOptions model_options() const;
};
void add_engine_options(CLI::App& command, EngineArguments& arguments);
/// --engine and --threads alone.
void add_engine_choice(CLI::App& command, std::string& engine, int& threads);

/// Seconds of --patience.
constexpr std::int64_t kPatience = 600;
void add_patience(CLI::App& command, std::int64_t& seconds);

/// --dtype, as weights are stored: one of `names`.
void add_stored_dtype(CLI::App& command, std::string& dtype, std::vector<std::string> names, const std::string& help);
/// The dtype of that name; f32 for "auto".
DType dtype_named(const std::string& name);

/// --extend-positions N[:interpolate], rows of longer position tables.
struct PositionsArgument {
  std::string text = {};

  /// Sets the two options of ModelOptions or ConvertOptions, where the argument was given.
  template <class Options>
  void apply(Options& options) const {
    if (text.empty()) return;
    const std::size_t colon = text.find(':');
    options.num_positional_embeddings = std::stoll(text.substr(0, colon));
    if (colon != std::string::npos)
      options.position_extension = position_extension(text.substr(colon + 1), "--extend-positions");
  }
};
void add_extend_positions(CLI::App& command, PositionsArgument& positions);

void add_variant(CLI::App& command, std::string& variant);
/// --select, the path of one set of weights in a checkpoint.
void add_select(CLI::App& command, std::string& select);
void add_lenient(CLI::App& command, bool& lenient);

}  // namespace kineograph::cli
