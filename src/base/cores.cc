#include "base/cores.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "base/system.h"
#if KINEOGRAPH_LINUX
#include <sched.h>
#endif

namespace kineograph {
namespace {

namespace fs = std::filesystem;

int bound_cores() {
#if KINEOGRAPH_LINUX
  // A machine may have more cores than a cpu_set_t; the call says so by failing.
  for (int most = CPU_SETSIZE; most <= 1 << 16; most *= 4) {
    cpu_set_t* const set = CPU_ALLOC(static_cast<std::size_t>(most));
    if (set == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(most));
    const int count = ::sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::optional<double> number_in(const fs::path& path) {
  double value = 0;
  std::ifstream in(path);
  return in >> value ? std::optional(value) : std::nullopt;
}

/// What one group says itself: cpu.max of version 2, cpu.cfs_quota_us of version 1.
std::optional<double> own_quota(const fs::path& group) {
  std::ifstream in(group / "cpu.max");
  double quota = 0, period = 0;
  if (in >> quota >> period && quota > 0 && period > 0) return quota / period;
  const auto old_quota = number_in(group / "cpu.cfs_quota_us"), old_period = number_in(group / "cpu.cfs_period_us");
  if (old_quota && old_period && *old_quota > 0 && *old_period > 0) return *old_quota / *old_period;
  return {};
}

/// The least quota of `path` below `root` and of every group above it. A container may see its own group as the root,
/// under the name that it has outside.
std::optional<double> least_quota(const fs::path& root, fs::path path) {
  std::optional<double> least;
  const auto take = [&](const fs::path& group) {
    const auto quota = own_quota(group);
    if (quota && (!least || *quota < *least)) least = quota;
  };
  for (path = path.relative_path(); !path.empty(); path = path.parent_path()) take(root / path);
  take(root);
  return least;
}

bool has_cpu(std::string_view controllers) {
  return ("," + std::string(controllers) + ",").find(",cpu,") != std::string::npos;
}

}  // namespace

std::optional<int> quota_cores(std::string_view groups, const fs::path& mount) {
  std::optional<double> least;
  while (!groups.empty()) {
    const std::string_view line = groups.substr(0, groups.find('\n'));
    groups.remove_prefix(std::min(groups.size(), line.size() + 1));
    // number:controllers:path; version 2 has number 0 and no controllers.
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string_view::npos || second == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (!controllers.empty() && !has_cpu(controllers)) continue;
    for (const fs::path& root : {controllers.empty() ? mount : mount / controllers, mount / "cpu"}) {
      const auto quota = least_quota(root, path);
      if (quota && (!least || *quota < *least)) least = quota;
    }
  }
  if (!least) return {};
  return static_cast<int>(std::clamp(std::ceil(*least), 1.0, 65536.0));
}

int available_cores() {
  static const int quota = [] {
    std::ifstream in("/proc/self/cgroup");
    const std::string groups{std::istreambuf_iterator<char>(in), {}};
    return quota_cores(groups, "/sys/fs/cgroup").value_or(1 << 16);
  }();
  return std::min(bound_cores(), quota);
}

}  // namespace kineograph
