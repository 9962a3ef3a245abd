#include "pages.h"

#include <algorithm>
#include <vector>

#include "base/text.h"
#include "kineograph/version.h"
#include "options.h"

namespace kineograph::cli {
namespace {

/// An option as the help shows it, taken apart.
struct Entry {
  std::vector<std::string> names = {};    // "-m", "--model"; none for a positional alone
  std::string value = {};                 // FILE, N, auto|f32|bf16; empty for a flag
  std::vector<std::string> choices = {};  // of a value that is one of some words
  std::string help = {};
  bool positional = false;

  bool is_file() const { return value == "FILE" || value == "PATH"; }
  bool is_folder() const { return value == "FOLDER"; }
};

struct Page {
  std::string name, description, footer;
  std::vector<Entry> entries;
};

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    if (text.substr(at, from.size()) == from) {
      result += to;
      at += from.size();
    } else {
      result += text[at++];
    }
  }
  return result;
}

std::vector<std::string> words_of(const std::string& text, char separator) {
  std::vector<std::string> words(1);
  for (const char c : text) {
    if (c == separator)
      words.emplace_back();
    else
      words.back() += c;
  }
  return words;
}

Page page_of(const CLI::App& command) {
  Page page = {command.get_name(), command.get_description(), command.get_footer(), {}};
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_group().empty()) continue;
    Entry entry;
    for (const std::string& name : option->get_snames()) entry.names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) entry.names.push_back("--" + name);
    if (option->get_items_expected_max() > 0) entry.value = option->get_type_name();
    if (entry.value.find('|') != std::string::npos) entry.choices = words_of(entry.value, '|');
    entry.help = option->get_description();
    entry.positional = option->get_positional();
    if (!option->get_default_str().empty()) entry.help += " (default: " + option->get_default_str() + ")";
    page.entries.push_back(std::move(entry));
  }
  return page;
}

/// The program itself, then its commands.
std::vector<Page> pages_of(const CLI::App& program) {
  std::vector<Page> pages = {page_of(program)};
  for (const CLI::App* command : program.get_subcommands([](const CLI::App*) { return true; }))
    pages.push_back(page_of(*command));
  return pages;
}

std::string command_names(const std::vector<Page>& pages) {
  std::string names = "help";
  for (std::size_t i = 1; i < pages.size(); ++i) names += " " + pages[i].name;
  return names;
}

// The manual page.

/// Text in roff: a backslash, a hyphen that is to be typed, and a line that would be a request are escaped.
std::string roff(std::string_view text) {
  std::string result = replaced(replaced(text, "\\", "\\e"), "-", "\\-");
  result = replaced(replaced(result, "\n.", "\n\\&."), "\n'", "\n\\&'");
  return result.substr(0, 1) == "." || result.substr(0, 1) == "'" ? "\\&" + result : result;
}

std::string manual_entry(const Entry& entry) {
  std::vector<std::string> names;
  for (const std::string& name : entry.names) names.push_back("\\fB" + roff(name) + "\\fR");
  std::string title = joined(names, ", ");
  if (!entry.value.empty()) title += (names.empty() ? "" : " ") + ("\\fI" + roff(entry.value) + "\\fR");
  return ".TP\n" + title + "\n" + roff(entry.help) + "\n";
}

std::string manual_command(const Page& page) {
  std::string text = ".SS kineograph " + page.name + "\n" + roff(page.description) + ".\n";
  for (const Entry& entry : page.entries) text += manual_entry(entry);
  // The footer: a line of prose, or lines that are typed.
  if (!page.footer.empty()) text += ".PP\n.nf\n" + roff(page.footer) + "\n.fi\n";
  return text;
}

// bash.

std::string bash_values(const Entry& entry) {
  if (!entry.choices.empty())
    return "mapfile -t COMPREPLY < <(compgen -W '" + joined(entry.choices, " ") + "' -- \"$cur\")";
  if (entry.is_folder()) return "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- \"$cur\")";
  if (entry.is_file()) return "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")";
  return ":";
}

std::string bash_completion(const std::vector<Page>& pages) {
  std::string text =
      "# bash completion of kineograph, made by kineograph --completion bash\n"
      "_kineograph() {\n"
      "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n"
      "  COMPREPLY=()\n"
      "  # --option=value is three words here.\n"
      "  if [ \"$cur\" = = ]; then cur=\n"
      "  elif [ \"$prev\" = = ]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
      "  [ \"$COMP_CWORD\" -gt 1 ] || command=\n"
      "  case \"$command $prev\" in\n";
  for (const Page& page : pages) {
    for (const Entry& entry : page.entries) {
      if (entry.value.empty() || entry.names.empty()) continue;
      std::vector<std::string> patterns;
      // The program's own options stand where a command would.
      for (const std::string& name : entry.names)
        patterns.push_back(&page == &pages.front() ? "*' " + name + "'" : "'" + page.name + " " + name + "'");
      text += "    " + joined(patterns, "|") + ") " + bash_values(entry) + "; return ;;\n";
    }
  }
  text += "    'help '*) mapfile -t COMPREPLY < <(compgen -W '" + command_names(pages) +
          "' -- \"$cur\"); return ;;\n  esac\n";
  text += "  case \"$command\" in\n";
  for (const Page& page : pages) {
    std::vector<std::string> words;
    for (const Entry& entry : page.entries) words.insert(words.end(), entry.names.begin(), entry.names.end());
    const bool whole = &page == &pages.front();
    text += "    " + (whole ? std::string("''") : page.name) + ") mapfile -t COMPREPLY < <(compgen -W '" +
            joined(words, " ") + (whole ? " " + command_names(pages) : "") + "' -- \"$cur\") ;;\n";
  }
  return text +
         "  esac\n"
         "  case \"$command:$cur\" in\n"
         "    :*|*:-*) ;;\n"
         "    *) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\") ;;\n"
         "  esac\n"
         "}\n"
         "complete -F _kineograph kineograph\n";
}

// zsh.

std::string zsh_quoted(std::string_view text) { return replaced(text, "'", "'\\''"); }

/// ":value:what it is completed with", or nothing for a flag.
std::string zsh_value(const Entry& entry) {
  if (entry.value.empty()) return "";
  if (!entry.choices.empty()) return ":value:(" + joined(entry.choices, " ") + ")";
  if (entry.is_folder()) return ":folder:_files -/";
  if (entry.is_file()) return ":file:_files";
  return ":" + zsh_quoted(replaced(entry.value, ":", " ")) + ": ";
}

std::string zsh_arguments(const Page& page) {
  std::string text = "_arguments -s";
  for (const Entry& entry : page.entries) {
    const std::string help = zsh_quoted(replaced(replaced(replaced(entry.help, "[", "("), "]", ")"), ":", "\\:"));
    for (const std::string& name : entry.names) {
      const bool after_equals = name.size() > 2 && !entry.value.empty();
      text += " \\\n        '(" + joined(entry.names, " ") + ")" + name + (after_equals ? "=" : "") + "[" + help + "]" +
              zsh_value(entry) + "'";
    }
    if (entry.positional) text += " \\\n        ':" + zsh_quoted(entry.value) + ":_files'";
  }
  return text;
}

std::string zsh_completion(const std::vector<Page>& pages) {
  std::string text =
      "#compdef kineograph\n# zsh completion of kineograph, made by kineograph --completion zsh\n"
      "_kineograph() {\n"
      "  local -a commands\n  commands=(\n    'help:explain a command'\n";
  for (std::size_t i = 1; i < pages.size(); ++i)
    text += "    '" + pages[i].name + ":" + zsh_quoted(replaced(pages[i].description, ":", "\\:")) + "'\n";
  text +=
      "  )\n"
      "  if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n    _describe command commands\n    return\n  fi\n"
      "  local command=$words[2]\n"
      "  (( CURRENT > 2 )) && shift words && (( CURRENT-- ))\n"
      "  case $command in\n    help) _describe command commands ;;\n";
  for (std::size_t i = 1; i < pages.size(); ++i)
    text += "    " + pages[i].name + ")\n      " + zsh_arguments(pages[i]) + " ;;\n";
  return text + "    *)\n      " + zsh_arguments(pages[0]) + " ;;\n  esac\n}\n_kineograph \"$@\"\n";
}

// fish.

std::string fish_quoted(std::string_view text) { return replaced(replaced(text, "\\", "\\\\"), "'", "\\'"); }

std::string fish_completion(const std::vector<Page>& pages) {
  std::string text =
      "# fish completion of kineograph, made by kineograph --completion fish\n"
      "complete -c kineograph -f -n __fish_use_subcommand -a help -d 'Explain a command'\n";
  for (std::size_t i = 1; i < pages.size(); ++i)
    text += "complete -c kineograph -f -n __fish_use_subcommand -a " + pages[i].name + " -d '" +
            fish_quoted(pages[i].description) + "'\n";
  text += "complete -c kineograph -f -n '__fish_seen_subcommand_from help' -a '" + command_names(pages) + "'\n";
  for (const Page& page : pages) {
    const bool whole = &page == &pages.front();
    for (const Entry& entry : page.entries) {
      if (entry.names.empty()) continue;
      text += std::string("complete -c kineograph -n '") +
              (whole ? "__fish_use_subcommand" : "__fish_seen_subcommand_from " + page.name) + "'";
      for (const std::string& name : entry.names)
        text += name[1] == '-' ? " -l " + name.substr(2) : " -s " + name.substr(1);
      if (!entry.choices.empty())
        text += " -x -a '" + joined(entry.choices, " ") + "'";
      else if (entry.is_folder())
        text += " -x -a '(__fish_complete_directories)'";
      else if (!entry.value.empty())
        text += entry.is_file() ? " -r -F" : " -x";
      text += " -d '" + fish_quoted(entry.help) + "'\n";
    }
  }
  return text;
}

}  // namespace

std::string manual_page(const CLI::App& program) {
  const std::vector<Page> pages = pages_of(program);
  std::string text = ".TH KINEOGRAPH 1 \"\" \"kineograph " KINEOGRAPH_VERSION
                     "\"\n.SH NAME\nkineograph \\- TransformerTemporalModel of diffusers on CPUs, and restored video\n"
                     ".SH SYNOPSIS\n.B kineograph\n.I command\n[\\fIoptions\\fR]\n.br\n.B kineograph help\n.I command\n"
                     ".SH DESCRIPTION\n" +
                     roff(program.get_description()) +
                     "\nData goes to standard output or into files, messages to standard error.\n.SH OPTIONS\n";
  for (const Entry& entry : pages.front().entries) text += manual_entry(entry);
  text += ".SH COMMANDS\n";
  for (std::size_t i = 1; i < pages.size(); ++i) text += manual_command(pages[i]);
  text +=
      ".SH ENVIRONMENT\n"
      ".TP\n.B KINEOGRAPH_NUM_THREADS\nThreads that commands use, where \\fB\\-\\-threads\\fR gives none.\n"
      ".TP\n.B KINEOGRAPH_MODELS\nThe folder of the shipped models, in place of share/kineograph/models beside the "
      "program.\n"
      ".SH EXIT STATUS\n0 done, 1 failed, 2 wrong usage, 128 + signal where a signal ended a run.\n";
  return text;
}

std::string completion(const CLI::App& program, std::string_view shell) {
  const std::vector<Page> pages = pages_of(program);
  return shell == "bash" ? bash_completion(pages) : shell == "zsh" ? zsh_completion(pages) : fish_completion(pages);
}

void add_pages(CLI::App& program) {
  // As --version: what is printed ends the parsing. CallForVersion's text is printed with a line's end of its own.
  const auto print = [](std::string text) { throw CLI::CallForVersion(text.substr(0, text.size() - 1), 0); };
  program.add_flag_callback(
      "--man", [&program, print] { print(manual_page(program)); }, "The manual page, for man -l -");
  program
      .add_option_function<std::string>(
          "--completion", [&program, print](const std::string& shell) { print(completion(program, shell)); },
          "Completions for a shell, as for eval \"$(kineograph --completion bash)\"")
      ->check(one_of({"bash", "zsh", "fish"}))
      ->type_name("bash|zsh|fish");
}

}  // namespace kineograph::cli
