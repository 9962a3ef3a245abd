// The processes that mpirun has started together, which share a command: its ranks.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kineograph/communicator.h"
#include "messages.h"

namespace kineograph::cli {

class Job {
 public:
  virtual ~Job() = default;
  virtual Communicator& ranks() = 0;
  /// On rank 0 every rank's `mine` in the order of ranks, bytes[rank] of each; nothing elsewhere. Throws
  /// CommunicationError.
  virtual std::vector<std::byte> gather(std::span<const std::byte> mine, const std::vector<std::size_t>& bytes) = 0;
  /// Ends all ranks, whatever they do, with exit code 1.
  [[noreturn]] virtual void abort() = 0;
};

/// Processes that mpirun or srun has started together, as it tells each in its environment; 0 without it.
int ranks_started();

/// Says so where a command that shares no work has been started together with others. A script that they run may have
/// given each its own work, so it is no error.
void warn_of_job(const std::string& command);

/// Joins the others, or null where this process is alone. An exchange fails after `patience`. job_mpi.cc, or
/// job_absent.cc in a program without MPI, which throws ArgumentError where others have been started. Throws
/// CommunicationError.
std::unique_ptr<Job> join_job(std::chrono::milliseconds patience);

/// Whether this process is the one that writes and speaks: rank 0, or the only one.
inline bool is_first(Job* job) { return job == nullptr || job->ranks().rank() == 0; }

/// body(); in a job, an error of one rank ends all of them.
template <class Body>
void together(Job* job, const Body& body) {
  if (job == nullptr) return body();
  try {
    body();
  } catch (const std::exception& error) {
    // Mostly all ranks have the same to say, and end with the first one's word.
    if (job->ranks().rank() != 0) std::this_thread::sleep_for(std::chrono::milliseconds(800));
    say("error: rank " + std::to_string(job->ranks().rank()) + ": " + error.what());
    // mpirun may lose the last words of a rank that ends the job at once.
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    job->abort();
  }
}

}  // namespace kineograph::cli
