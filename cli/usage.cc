#include "usage.h"

#include <algorithm>
#include <string_view>

#include "base/nearest.h"
#include "base/printable.h"

namespace kineograph::cli {
namespace {

/// "restor: no such command; did you mean restore?"
std::string no_such(const std::string& name, std::string_view what, const std::vector<std::string>& known) {
  const std::string_view meant = nearest(name, {known.begin(), known.end()});
  return name + ": no such " + std::string(what) + (meant.empty() ? "" : "; did you mean " + std::string(meant) + "?");
}

std::vector<std::string> command_names(const CLI::App& program) {
  std::vector<std::string> names;
  for (const CLI::App* command : program.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  return names;
}

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

/// Of "--input: 1 required TEXT missing" or "--input is required": the option.
std::string subject_of(std::string_view text) { return std::string(text.substr(0, text.find_first_of(": "))); }

/// CLI11 says of each kind of error which option it is about, and the rest in words of its own.
std::string sentence(const CLI::App& command, const CLI::ParseError& error) {
  const std::string text = error.what();
  const bool missing = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  const bool extra = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  // An option that is misspelt is often why another is missing.
  if (missing || extra)
    for (const std::string& argument : command.remaining())
      if (argument.size() > 1 && argument[0] == '-')
        return no_such(argument.substr(0, argument.find('=')), "option", option_names(command));
  if (missing) return subject_of(text) + ": needed, and not given";
  if (extra && !command.remaining().empty()) return command.remaining().front() + ": expected no further argument";
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr)
    return subject_of(text) + (text.find("received") == std::string::npos ? ": expected a value, found none"
                                                                          : ": expected once, found more often");
  if (dynamic_cast<const CLI::ExcludesError*>(&error) != nullptr) {
    const std::size_t other = text.rfind(' ');
    return subject_of(text) + " and " + text.substr(other + 1) + ": expected one of them, found both";
  }
  return text;
}

}  // namespace

std::vector<std::string> normalised(const CLI::App& program, std::vector<std::string> arguments) {
  if (!arguments.empty() && arguments.front() == "help") {
    arguments.erase(arguments.begin());
    arguments.resize(std::min<std::size_t>(arguments.size(), 1));
    arguments.emplace_back("--help");
  }
  if (arguments.empty()) return {"--help"};
  const std::vector<std::string> commands = command_names(program), options = option_names(program);
  const std::string& first = arguments.front();
  const auto is_one_of = [&](const std::vector<std::string>& names) {
    return std::find(names.begin(), names.end(), first) != names.end();
  };
  if (is_one_of(commands) || is_one_of(options) || first == "-h") return arguments;
  const bool option = first.size() > 1 && first[0] == '-';
  throw CLI::ParseError(no_such(first, option ? "option" : "command", option ? options : commands), 2);
}

std::string explain(const CLI::App& program, const CLI::ParseError& error) {
  const std::vector<CLI::App*> used = program.get_subcommands();
  const CLI::App& command = used.empty() ? program : *used.front();
  const std::string help = "kineograph " + (used.empty() ? "" : command.get_name() + " ") + "--help";
  const std::string text = printable(sentence(command, error));
  return text + (text.back() == '?' ? " " : ". ") + "See " + help + ".";
}

}  // namespace kineograph::cli
