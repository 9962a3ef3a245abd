// kineograph inspect: what a checkpoint holds.
#include <algorithm>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "commands.h"
#include "kineograph/kineograph.h"
#include "messages.h"
#include "options.h"

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
  std::vector<SpatialModule> spatial = {};   ///< likewise
  std::string spatial_note = {};             ///< which sets of them there are
  std::int64_t values = 0;
  std::size_t bytes = 0;
  std::map<std::string, std::size_t> others = {};  ///< places of tensors that belong to no module: how many
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

/// Sets that differ are a note: the file is still worth a look.
void read_spatial(Contents& contents) {
  try {
    contents.spatial = spatial_modules(contents.checkpoint);
  } catch (const CheckpointError& error) {
    contents.spatial_note = error.what();
  }
}

bool has_modules(const Contents& contents) { return !contents.sets.empty() || !contents.spatial.empty(); }

Contents read(const InspectArguments& arguments) {
  Contents contents{Checkpoint::open(arguments.path, {arguments.variant, arguments.select})};
  contents.sets = module_sets(contents.checkpoint);
  if (contents.sets.size() == 1) contents.modules = contents.sets.front().modules;
  read_spatial(contents);
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
  for (const SpatialModule& module : contents.spatial) used.insert(module.sources.begin(), module.sources.end());
  for (const auto& [name, view] : contents.checkpoint.tensors())
    if (!used.contains(name)) ++contents.num_others, ++contents.others[place_of(name)];
  return contents;
}

/// self: attends to the frames again; cross: to encoder_hidden_states; none.
std::string_view attn2_kind(const TransformerTemporalConfig& config) {
  return config.double_self_attention ? "self" : config.cross_attention_dim ? "cross" : "none";
}

std::string display_name(const CheckpointModule& module) {
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

nlohmann::ordered_json describe(const SpatialModule& module) {
  const std::string config = std::visit([](const auto& one) { return one.to_json(); }, module.config);
  return {{"name", module.name},
          {"class", class_name(module.config)},
          {"dtype", name_of(module.dtype())},
          {"parameters", module.num_parameters()},
          {"assumed", module.assumed},
          {"problem", module.problem},
          {"config", nlohmann::ordered_json::parse(config)}};
}

using Table = std::vector<std::vector<std::string>>;

/// The first column is flush left, the others right.
void print_table(const Table& rows) {
  std::vector<std::size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i)
      std::cout << (i == 0 ? "" : "  ") << (i == 0 ? std::left : std::right) << std::setw(static_cast<int>(widths[i]))
                << row[i];
    std::cout << '\n';
  }
}

void print_modules(const std::vector<TemporalModule>& modules) {
  Table rows = {{"module", "C", "I", "heads", "layers", "positions", "attn2", "dtype", "parameters"}};
  for (const TemporalModule& module : modules) {
    const TransformerTemporalConfig& c = module.config;
    rows.push_back(
        {display_name(module), c.in_channels ? std::to_string(*c.in_channels) : "-", std::to_string(c.inner_dim()),
         std::to_string(c.num_attention_heads) + " x " + std::to_string(c.attention_head_dim),
         std::to_string(c.num_layers), c.num_positional_embeddings ? std::to_string(*c.num_positional_embeddings) : "-",
         std::string(attn2_kind(c)), std::string(name_of(module.dtype())), std::to_string(module.num_parameters())});
  }
  print_table(rows);
}

void print_spatial(const std::vector<SpatialModule>& modules) {
  Table rows = {{"spatial module", "class", "C", "I", "heads", "layers", "text", "dtype", "parameters"}};
  for (const SpatialModule& module : modules) {
    const TransformerConfig& c = common(module.config);
    rows.push_back({display_name(module), std::string(class_name(module.config)),
                    c.in_channels ? std::to_string(*c.in_channels) : "-", std::to_string(c.inner_dim()),
                    std::to_string(c.num_attention_heads) + " x " + std::to_string(c.attention_head_dim),
                    std::to_string(c.num_layers), c.cross_attention_dim ? std::to_string(*c.cross_attention_dim) : "-",
                    std::string(name_of(module.dtype())), std::to_string(module.num_parameters())});
  }
  print_table(rows);
}

/// "num_attention_heads = 5, 10": the values that the file does not say, over all modules.
void print_assumed(const std::vector<TemporalModule>& modules) {
  std::map<std::string, std::vector<std::string>> values;
  for (const TemporalModule& module : modules) {
    if (module.assumed.empty()) continue;
    const auto config = nlohmann::ordered_json::parse(module.config.to_json());
    for (const std::string& key : module.assumed) {
      const std::string value = config.contains(key) ? config[key].dump() : "default";
      std::vector<std::string>& seen = values[key];
      if (std::find(seen.begin(), seen.end(), value) == seen.end()) seen.push_back(value);
    }
  }
  for (const auto& [key, seen] : values) {
    std::cout << "assumed   " << key << " = ";
    for (std::size_t i = 0; i < seen.size(); ++i) std::cout << (i == 0 ? "" : ", ") << seen[i];
    std::cout << " (as the published models have it)\n";
  }
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
  out["spatial_modules"] = nlohmann::json::array();
  for (const SpatialModule& module : contents.spatial) out["spatial_modules"].push_back(describe(module));
  out["sets"] = nlohmann::json::array();
  for (const ModuleSet& set : contents.sets) {
    auto names = nlohmann::json::array();
    for (const TemporalModule& module : set.modules) names.push_back(module.name);
    out["sets"].push_back({{"path", set.path}, {"modules", names}});
  }
  out["seems"] = !has_modules(contents) ? other_contents(contents.checkpoint) : std::string();
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

/// Parts of the file that no module uses: in one line, or all of them.
void print_ignored(const Contents& contents, bool all) {
  const auto& objects = contents.checkpoint.ignored();
  if (all) {
    for (const auto& [name, what] : objects)
      std::cout << "ignored   " << printable(name) << ": " << printable(what) << '\n';
    if (has_modules(contents))
      for (const auto& [place, count] : contents.others)
        std::cout << "ignored   " << printable(place) << ": " << counted(static_cast<std::int64_t>(count), "tensor")
                  << '\n';
    return;
  }
  std::string text;
  if (has_modules(contents) && contents.num_others != 0) {
    text = counted(static_cast<std::int64_t>(contents.num_others), "tensor") + " of other parts (";
    constexpr std::size_t kShown = 3;
    std::size_t shown = 0;
    for (auto place = contents.others.begin(); place != contents.others.end() && shown < kShown; ++place, ++shown)
      text += (shown == 0 ? "" : ", ") + printable(place->first);
    text += contents.others.size() > kShown ? ", ...)" : ")";
  }
  if (!objects.empty())
    text += (text.empty() ? "" : ", ") + counted(static_cast<std::int64_t>(objects.size()), "object") + " (" +
            printable(objects.front().name) + ": " + printable(objects.front().what) +
            (objects.size() > 1 ? ", ...)" : ")");
  if (!text.empty()) std::cout << "ignored   " << text << "; --tensors lists all\n";
}

void print_sets(const Contents& contents) {
  const auto is_whole = [](const CheckpointModule& module) { return module.problem.empty(); };
  const bool whole = std::all_of(contents.modules.begin(), contents.modules.end(), is_whole) &&
                     std::all_of(contents.spatial.begin(), contents.spatial.end(), is_whole);
  if (!contents.spatial_note.empty()) std::cout << "note      " << printable_lines(contents.spatial_note) << '\n';
  if (!has_modules(contents) || !whole)
    if (const std::string seems = other_contents(contents.checkpoint); !seems.empty())
      std::cout << "note      " << printable(seems) << '\n';
  if (contents.sets.size() < 2) return;
  for (const ModuleSet& set : contents.sets)
    std::cout << "set       " << printable(set.path) << ": "
              << counted(static_cast<std::int64_t>(set.modules.size()), "temporal module") << '\n';
  std::cout << "note      the sets differ; --select PATH chooses one\n";
}

void print_adapter(const Contents& contents) {
  std::size_t factors = 0;
  for (const TemporalModule& module : contents.modules) factors += module.adapter.size();
  if (factors == 0) return;
  std::cout << "adapter   " << factors << " low-rank factors, which the weights do not contain; to merge them, give the"
            << " file itself as --lora to kineograph convert\n";
}

template <class Module>
void print_damaged(const std::vector<Module>& modules) {
  for (const Module& module : modules)
    if (!module.problem.empty())
      std::cout << "damaged   " << display_name(module) << printable_lines(module.problem) << '\n';
}

void print_text(const Contents& contents, bool tensors) {
  const std::vector<TemporalModule>& modules = contents.modules;
  if (!modules.empty()) {
    print_modules(modules);
    std::cout << "\nlayout    " << layout_of(modules) << '\n';
    print_assumed(modules);
    print_damaged(modules);
  }
  if (!contents.spatial.empty()) {
    if (!modules.empty()) std::cout << '\n';
    print_spatial(contents.spatial);
    std::cout << '\n';
    print_damaged(contents.spatial);
  }
  print_sets(contents);
  print_adapter(contents);
  if (tensors || !has_modules(contents)) print_tensors(contents);
  print_ignored(contents, tensors);
  for (const auto& [key, value] : contents.checkpoint.metadata())
    std::cout << "metadata  " << printable(key) << " = " << printable(value) << '\n';
  for (const auto& file : contents.checkpoint.files())
    std::cout << "file      " << printable(file.string()) << " (" << contents.checkpoint.container() << ")\n";
  std::int64_t parameters = 0;
  for (const TemporalModule& module : modules) parameters += module.num_parameters();
  for (const SpatialModule& module : contents.spatial) parameters += module.num_parameters();
  const std::string spatial =
      contents.spatial.empty()
          ? ""
          : " and " + counted(static_cast<std::int64_t>(contents.spatial.size()), "spatial module");
  std::cout << "total     " << counted(static_cast<std::int64_t>(modules.size()), "temporal module") << spatial
            << " with " << counted(parameters, "parameter") << "; in the file "
            << counted(static_cast<std::int64_t>(contents.checkpoint.tensors().size()), "tensor") << " with "
            << counted(contents.values, "value") << ", " << size_text(contents.bytes) << '\n';
}

}  // namespace

void add_inspect(CLI::App& program) {
  auto arguments = std::make_shared<InspectArguments>();
  CLI::App* command = program.add_subcommand("inspect", "Print what a checkpoint holds");
  command
      ->add_option("PATH", arguments->path,
                   "A model folder, a .safetensors file, its .index.json, or a torch archive (.ckpt, .pth, .bin, .pt)")
      ->type_name("PATH")
      ->required();
  command->add_flag("--json", arguments->json, "Print JSON");
  add_variant(*command, arguments->variant);
  add_select(*command, arguments->select);
  command->add_flag("--tensors", arguments->tensors, "List every tensor, and all that is ignored");
  command->footer("Example:\n  kineograph inspect module --json");
  command->callback([arguments] {
    const Contents contents = read(*arguments);
    arguments->json ? print_json(contents) : print_text(contents, arguments->tensors);
  });
}

}  // namespace kineograph::cli
