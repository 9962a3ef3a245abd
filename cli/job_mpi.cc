#include <algorithm>
#include <cstdlib>

#include "job.h"
#include "kineograph/mpi.h"

namespace kineograph::cli {
namespace {

/// MPI from its beginning to its end.
struct Session {
  Session() {
    int level = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level);
    if (level < MPI_THREAD_SERIALIZED)
      throw CommunicationError("MPI_Init_thread", "MPI_THREAD_SERIALIZED", "level " + std::to_string(level));
  }
  ~Session() { MPI_Finalize(); }
};

class MpiJob : public Job {
 public:
  explicit MpiJob(std::chrono::milliseconds patience) : ranks_(MPI_COMM_WORLD, patience) {}
  Communicator& ranks() override { return ranks_; }
  std::vector<std::byte> gather(std::span<const std::byte> mine, const std::vector<std::size_t>& bytes) override {
    return ranks_.gather(mine, bytes);
  }
  void abort() override {
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::_Exit(1);
  }

 private:
  Session session_;
  MpiCommunicator ranks_;
};

}  // namespace

std::unique_ptr<Job> join_job(std::chrono::milliseconds patience) {
  // Started by itself, a program would begin MPI's daemons for nothing.
  const int ranks = ranks_started();
  if (ranks <= 1) return nullptr;
  auto job = std::make_unique<MpiJob>(patience);
  if (const int size = job->ranks().size(); size != ranks)
    throw CommunicationError("MPI_COMM_WORLD", std::to_string(ranks) + " ranks, as were started", std::to_string(size),
                             "The program was built with another MPI than the one that starts it.");
  return job;
}

}  // namespace kineograph::cli
