#include "options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "messages.h"

namespace kineograph::cli {
namespace {

template <class T>
bool parse(const std::string& text, T& value) {
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && rest == end;
}

/// "expected <what>, found <text>" where `good` says no.
template <class Good>
CLI::Validator check(std::string what, Good good) {
  return {[what = std::move(what), good = std::move(good)](std::string& text) {
            return good(text) ? std::string() : "expected " + what + ", found " + (text.empty() ? "nothing" : text);
          },
          ""};
}

/// Why the library has no such engine here, if it knows, as a further sentence without its full stop.
std::string why_absent(const std::string& engine) {
  try {
    (void)instruction_sets(engine);
  } catch (const ArgumentError& error) {
    if (!error.hint().empty()) return ". " + error.hint().substr(0, error.hint().size() - 1);
  }
  return {};
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

/// "a", "a or b", "a, b or c".
std::string any_of(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i)
    text += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  return text;
}

}  // namespace

std::vector<std::string> engine_names() {
  std::vector<std::string> names = engines();
  names.insert(names.begin(), "auto");
  return names;
}

CLI::Validator whole_number(std::int64_t least, std::int64_t most) {
  std::string what = "a whole number from " + std::to_string(least);
  if (most != std::numeric_limits<std::int64_t>::max()) what += " to " + std::to_string(most);
  return check(std::move(what), [=](const std::string& text) {
    std::int64_t value = 0;
    return parse(text, value) && least <= value && value <= most;
  });
}

CLI::Validator whole_number(std::int64_t least) {
  return whole_number(least, std::numeric_limits<std::int64_t>::max());
}

CLI::Validator number(double least, double most) {
  return check("a number from " + short_number(least) + " to " + short_number(most), [=](const std::string& text) {
    double value = 0;
    return parse(text, value) && least <= value && value <= most;
  });
}

CLI::Validator one_of(std::vector<std::string> names) {
  std::string what = any_of(names);
  return check(std::move(what), [names = std::move(names)](const std::string& text) {
    return std::find(names.begin(), names.end(), text) != names.end();
  });
}

CLI::Option* add_choice(CLI::App& command, const std::string& name, std::string& value, std::vector<std::string> names,
                        const std::string& help, Explain explain) {
  std::string shown;
  for (const std::string& known : names) shown += (shown.empty() ? "" : "|") + known;
  const CLI::Validator known = one_of(std::move(names));
  const auto problem = [known, explain](std::string& text) -> std::string {
    const std::string found = known(text);
    return found.empty() || explain == nullptr ? found : found + explain(text);
  };
  CLI::Option* option = command.add_option(name, value, help)->check(CLI::Validator(problem, ""))->type_name(shown);
  return value.empty() ? option : option->capture_default_str();
}

ModelOptions EngineArguments::model_options() const {
  ModelOptions options;
  options.engine = engine;
  options.isa = isa;
  if (dtype != "auto") options.compute_dtype = dtype_named(dtype);
  options.on_warning = warn_once();
  return options;
}

void add_engine_choice(CLI::App& command, std::string& engine, int& threads) {
  add_choice(command, "--engine", engine, engine_names(), "Engine to compute with", why_absent);
  add_whole_number(command, "--threads", threads, 0, kMostThreads, "Threads; 0 for KINEOGRAPH_NUM_THREADS or all cores")
      ->capture_default_str();
}

void add_engine_options(CLI::App& command, EngineArguments& arguments) {
  add_engine_choice(command, arguments.engine, arguments.threads);
  command.add_option("--isa", arguments.isa, "Instruction set to force (see kineograph --version)")->type_name("NAME");
  std::vector<std::string> dtypes = {"auto", "f32", "bf16"};
  const std::vector<std::string> names = engine_names();
  if (std::find(names.begin(), names.end(), "cuda") != names.end()) dtypes.insert(dtypes.begin() + 2, "f16");
  add_choice(command, "--dtype", arguments.dtype, std::move(dtypes),
             "Type that inputs of matrix products are rounded to; auto follows the model's weights");
}

void add_patience(CLI::App& command, std::int64_t& seconds) {
  add_whole_number(command, "--patience", seconds, 1, 1'000'000,
                   "Under mpirun: seconds that a rank waits for the others before all of them end with an error")
      ->capture_default_str();
}

void add_stored_dtype(CLI::App& command, std::string& dtype, std::vector<std::string> names, const std::string& help) {
  add_choice(command, "--dtype", dtype, std::move(names), help);
}

DType dtype_named(const std::string& name) {
  return name == "f16" ? DType::f16 : name == "bf16" ? DType::bf16 : DType::f32;
}

void add_extend_positions(CLI::App& command, PositionsArgument& positions) {
  constexpr std::int64_t kMost = 1 << 20;
  const auto good = [](const std::string& text) {
    const std::size_t colon = text.find(':');
    std::int64_t rows = 0;
    if (!parse(text.substr(0, colon), rows) || rows < 1 || rows > kMost) return false;
    if (colon == std::string::npos) return true;
    const std::string name = text.substr(colon + 1);
    return name == name_of(PositionExtension::formula) || name == name_of(PositionExtension::interpolate);
  };
  command
      .add_option("--extend-positions", positions.text,
                  "Rows of longer position tables: further ones are sines and cosines, or those that are there are "
                  "stretched over all")
      ->check(
          check("a whole number from 1 to " + std::to_string(kMost) + ", and :interpolate behind it or nothing", good))
      ->type_name("N[:interpolate]");
}

void add_variant(CLI::App& command, std::string& variant) {
  command.add_option("--variant", variant, "Variant in the weights' file name, such as fp16")->type_name("NAME");
}

void add_select(CLI::App& command, std::string& select) {
  command.add_option("--select", select, "Path of one set of weights, where a file has several")->type_name("PATH");
}

void add_lenient(CLI::App& command, bool& lenient) {
  command.add_flag("--lenient", lenient, "Warn of unknown configuration keys instead of refusing them");
}

}  // namespace kineograph::cli
