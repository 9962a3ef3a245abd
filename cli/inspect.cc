// kineograph inspect: what a checkpoint holds.
#include <algorithm>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_set>

#include "commands.h"
#include "kineograph/kineograph.h"

namespace kineograph::cli {
namespace {

struct InspectArguments {
  std::string path, variant, select;
  bool json = false, tensors = false;
};

struct Contents {
  Checkpoint checkpoint;
  std::vector<ModuleSet> sets = {};
  std::vector<TemporalModule> modules = {};  ///< of the only set; none where there are several
  std::int64_t values = 0;
  std::size_t bytes = 0;
  std::map<std::string, std::size_t> others = {};  ///< places of tensors that belong to no temporal module: how many
  std::size_t num_others = 0;
};

/// "conv_in", "mid_block.resnets", "up_blocks.1.attentions": what a tensor's name begins with.
std::string place_of(std::string_view name) {
  constexpr std::string_view kDigits = "0123456789";
  std::string place;
  for (std::size_t at = 0, parts = 0, wanted = 2; parts < wanted && at < name.size(); ++parts) {
    const std::size_t dot = name.find('.', at);
    if (dot == std::string_view::npos) break;
    const std::string_view part = name.substr(at, dot - at);
    if (parts == 1 && part.find_first_not_of(kDigits) == std::string_view::npos) wanted = 3;
    place += (place.empty() ? "" : ".") + std::string(part);
    at = dot + 1;
  }
  return place.empty() ? std::string(name) : place;
}

Contents read(const InspectArguments& arguments) {
  Contents contents{Checkpoint::open(arguments.path, {arguments.variant, arguments.select})};
  contents.sets = module_sets(contents.checkpoint);
  if (contents.sets.size() == 1) contents.modules = contents.sets.front().modules;
  for (const auto& [name, view] : contents.checkpoint.tensors()) {
    contents.values += view.numel();
    contents.bytes += static_cast<std::size_t>(view.numel()) * size_of(view.dtype());
  }
  std::unordered_set<std::string_view> used;
  for (const ModuleSet& set : contents.sets)
    for (const TemporalModule& module : set.modules) {
      used.insert(module.sources.begin(), module.sources.end());
      used.insert(module.recomputed.begin(), module.recomputed.end());
      used.insert(module.adapter.begin(), module.adapter.end());
      for (const auto& [name, scale] : module.scales) used.insert(scale.source);
    }
  for (const auto& [name, view] : contents.checkpoint.tensors())
    if (!used.contains(name)) ++contents.num_others, ++contents.others[place_of(name)];
  return contents;
}

/// self: attends to the frames again; cross: to encoder_hidden_states; none.
std::string_view attn2_kind(const TransformerTemporalConfig& config) {
  return config.double_self_attention ? "self" : config.cross_attention_dim ? "cross" : "none";
}

std::string display_name(const TemporalModule& module) {
  return module.name.empty() ? "(the model)" : printable(module.name);
}

/// The layout, and which of AnimateDiff's versions it is, as diffusers tells them apart.
std::string layout_of(const std::vector<TemporalModule>& modules) {
  const TemporalModule& first = modules.front();
  std::string text(name_of(first.layout));
  if (first.layout != Layout::animatediff) return text;
  const auto has = [&](std::string_view name) {
    return std::any_of(modules.begin(), modules.end(),
                       [&](const TemporalModule& m) { return m.name.starts_with(name); });
  };
  const bool assumed = std::count(first.assumed.begin(), first.assumed.end(), "num_positional_embeddings") != 0;
  if (assumed) return text + ", without positions as AnimateLCM";
  if (!first.config.double_self_attention) return text + ", one attention as SparseCtrl";
  if (has("mid_block.")) return text + " v2";
  if (has("down_blocks.2.") && !has("down_blocks.3.")) return text + " SDXL";
  return text + (first.config.num_positional_embeddings == 24 ? " v1" : " v3");
}

nlohmann::ordered_json describe(const TemporalModule& module) {
  return {{"name", module.name},
          {"layout", name_of(module.layout)},
          {"dtype", name_of(module.dtype())},
          {"parameters", module.num_parameters()},
          {"attn2", attn2_kind(module.config)},
          {"assumed", module.assumed},
          {"problem", module.problem},
          {"adapter", module.adapter.size()},
          {"scales", module.scales.size()},
          {"config", nlohmann::ordered_json::parse(module.config.to_json())}};
}

void print_modules(const Contents& contents) {
  std::vector<std::vector<std::string>> rows = {
      {"module", "C", "I", "heads", "layers", "positions", "attn2", "dtype", "parameters"}};
  for (const TemporalModule& module : contents.modules) {
    const TransformerTemporalConfig& c = module.config;
    rows.push_back(
        {display_name(module), c.in_channels ? std::to_string(*c.in_channels) : "-", std::to_string(c.inner_dim()),
         std::to_string(c.num_attention_heads) + " x " + std::to_string(c.attention_head_dim),
         std::to_string(c.num_layers), c.num_positional_embeddings ? std::to_string(*c.num_positional_embeddings) : "-",
         std::string(attn2_kind(c)), std::string(name_of(module.dtype())), std::to_string(module.num_parameters())});
  }
  std::vector<std::size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i)
      std::cout << (i == 0 ? "" : "  ") << (i == 0 ? std::left : std::right) << std::setw(static_cast<int>(widths[i]))
                << row[i];
    std::cout << '\n';
  }
  std::set<std::string> assumed;
  for (const TemporalModule& module : contents.modules) assumed.insert(module.assumed.begin(), module.assumed.end());
  for (const TemporalModule& module : contents.modules)
    if (!module.problem.empty())
      std::cout << "damaged   " << display_name(module) << printable_lines(module.problem) << '\n';
  for (const std::string& key : assumed) std::cout << "assumed   " << key << ": as the published models have it\n";
}

void print_json(const Contents& contents) {
  nlohmann::ordered_json out;
  out["files"] = nlohmann::json::array();
  for (const auto& file : contents.checkpoint.files()) out["files"].push_back(file.string());
  out["metadata"] = contents.checkpoint.metadata();
  out["container"] = contents.checkpoint.container();
  out["layout"] = contents.modules.empty() ? nlohmann::json() : nlohmann::json(layout_of(contents.modules));
  out["modules"] = nlohmann::json::array();
  for (const TemporalModule& module : contents.modules) out["modules"].push_back(describe(module));
  out["sets"] = nlohmann::json::array();
  for (const ModuleSet& set : contents.sets) {
    auto names = nlohmann::json::array();
    for (const TemporalModule& module : set.modules) names.push_back(module.name);
    out["sets"].push_back({{"path", set.path}, {"modules", names}});
  }
  out["seems"] = contents.sets.empty() ? other_contents(contents.checkpoint) : std::string();
  out["ignored"] = nlohmann::json::array();
  for (const auto& [name, what] : contents.checkpoint.ignored())
    out["ignored"].push_back({{"name", name}, {"what", what}});
  out["others"] = contents.others;
  out["values"] = contents.values;
  out["bytes"] = contents.bytes;
  out["tensors"] = nlohmann::json::array();
  for (const auto& [name, view] : contents.checkpoint.tensors())
    out["tensors"].push_back({{"name", name},
                              {"dtype", name_of(view.dtype())},
                              {"shape", std::vector<std::int64_t>(view.shape().begin(), view.shape().end())}});
  // A name need not be UTF-8 for its file to be worth a look.
  std::cout << out.dump(2, ' ', true, nlohmann::json::error_handler_t::replace) << '\n';
}

void print_tensors(const Contents& contents) {
  std::size_t width = 0;
  // One long name must not make every line as long.
  constexpr std::size_t kWidest = 100;
  for (const auto& [name, view] : contents.checkpoint.tensors())
    width = std::max(width, std::min(name.size(), kWidest));
  for (const auto& [name, view] : contents.checkpoint.tensors())
    std::cout << "tensor    " << std::left << std::setw(static_cast<int>(width)) << printable(name) << "  "
              << std::setw(4) << name_of(view.dtype()) << "  " << to_string(view.shape()) << '\n';
}

void print_others(const Contents& contents) {
  constexpr std::size_t kMost = 40;
  std::size_t shown = 0;
  for (const auto& [place, count] : contents.others) {
    if (++shown > kMost) {
      std::cout << "ignored   tensors of " << contents.others.size() - kMost << " more places; --tensors lists them\n";
      break;
    }
    std::cout << "ignored   " << printable(place) << ": " << count << (count == 1 ? " tensor\n" : " tensors\n");
  }
}

void print_ignored(const Contents& contents) {
  constexpr std::size_t kMost = 40;
  const auto& ignored = contents.checkpoint.ignored();
  for (std::size_t i = 0; i < ignored.size() && i < kMost; ++i)
    std::cout << "ignored   " << printable(ignored[i].name) << ": " << printable(ignored[i].what) << '\n';
  if (ignored.size() > kMost) std::cout << "ignored   " << ignored.size() - kMost << " more; --json lists them\n";
}

void print_sets(const Contents& contents) {
  const bool whole = std::all_of(contents.modules.begin(), contents.modules.end(),
                                 [](const TemporalModule& module) { return module.problem.empty(); });
  if (contents.sets.empty() || !whole)
    if (const std::string seems = other_contents(contents.checkpoint); !seems.empty())
      std::cout << "note      " << printable(seems) << '\n';
  if (contents.sets.size() < 2) return;
  for (const ModuleSet& set : contents.sets)
    std::cout << "set       " << printable(set.path) << ": " << set.modules.size() << " temporal modules\n";
  std::cout << "note      the sets differ; --select PATH chooses one\n";
}

void print_adapter(const Contents& contents) {
  std::size_t factors = 0;
  for (const TemporalModule& module : contents.modules) factors += module.adapter.size();
  if (factors == 0) return;
  std::cout << "adapter   " << factors << " low-rank factors, which the weights do not contain; to merge them, give the"
            << " file itself as --lora to kineograph convert\n";
}

void print_text(const Contents& contents, bool tensors) {
  for (const auto& file : contents.checkpoint.files()) std::cout << "file      " << printable(file.string()) << '\n';
  std::cout << "container " << contents.checkpoint.container() << '\n';
  if (!contents.modules.empty()) std::cout << "layout    " << layout_of(contents.modules) << '\n';
  for (const auto& [key, value] : contents.checkpoint.metadata())
    std::cout << "metadata  " << printable(key) << " = " << printable(value) << '\n';
  print_ignored(contents);
  if (!contents.sets.empty()) print_others(contents);
  print_sets(contents);
  print_adapter(contents);
  if (!contents.modules.empty()) print_modules(contents);
  if (tensors || contents.sets.empty()) print_tensors(contents);
  std::cout << "total     " << contents.modules.size() << " temporal modules; " << contents.checkpoint.tensors().size()
            << " tensors, " << contents.num_others << " of them of other things; " << contents.values << " values, "
            << contents.bytes << " bytes\n";
}

}  // namespace

void add_inspect(CLI::App& program) {
  auto arguments = std::make_shared<InspectArguments>();
  CLI::App* command = program.add_subcommand("inspect", "Print what a checkpoint holds");
  command
      ->add_option("PATH", arguments->path,
                   "A model folder, a .safetensors file, its .index.json, or a torch archive (.ckpt, .pth, .bin, .pt)")
      ->required();
  command->add_flag("--json", arguments->json, "Print JSON");
  command->add_option("--variant", arguments->variant, "Variant in the weights' file name, such as fp16");
  command->add_option("--select", arguments->select, "Path of one set of weights, where a file has several");
  command->add_flag("--tensors", arguments->tensors, "List every tensor");
  command->footer("Example:\n  kineograph inspect module/ --json");
  command->callback([arguments] {
    const Contents contents = read(*arguments);
    arguments->json ? print_json(contents) : print_text(contents, arguments->tensors);
  });
}

}  // namespace kineograph::cli
