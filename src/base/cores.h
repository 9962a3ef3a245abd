// The cores that this process may use, by the scheduler's leave and the control group's.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>

namespace kineograph {

/// Cores that this process may use, at least 1: those it is bound to, and no more than the quota of its control group
/// pays for. The quota is read once.
int available_cores();

/// Cores that a control group's quota is worth, rounded up: `groups` as /proc/self/cgroup tells them, `mount` where the
/// hierarchies are mounted (/sys/fs/cgroup). The least of all groups above it counts. Absent for no quota.
std::optional<int> quota_cores(std::string_view groups, const std::filesystem::path& mount);

}  // namespace kineograph
