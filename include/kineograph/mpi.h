// MPI's ranks as the ranks of a call. Header-only: compiled by the program that has an MPI, against whichever it has.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kineograph/communicator.h"
#include "kineograph/error.h"

namespace kineograph {

/// The processes of an MPI communicator, over a duplicate of it: made and destroyed by all of them together, between
/// MPI_Init_thread (MPI_THREAD_SERIALIZED, or MPI_THREAD_FUNNELED where models are called by the main thread only) and
/// MPI_Finalize. MPI's errors become CommunicationError, and so does an exchange that takes longer than `patience`:
/// a rank is then dead or hung, this object is of no more use, and the program best calls MPI_Abort.
class MpiCommunicator : public Communicator {
 public:
  /// Throws CommunicationError.
  explicit MpiCommunicator(MPI_Comm communicator, std::chrono::milliseconds patience = std::chrono::seconds(60))
      : patience_(patience) {
    check(MPI_Comm_dup(communicator, &communicator_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
  }
  ~MpiCommunicator() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!broken_ && finalized == 0) MPI_Comm_free(&communicator_);
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_gather(std::span<const double> mine, std::span<double> all) override {
    if (broken_) throw CommunicationError("MPI", "a communicator that works", "one whose exchange has failed before");
    auto buffers = std::make_unique<Buffers>();
    buffers->mine.assign(mine.begin(), mine.end());
    buffers->all.resize(all.size());
    const int count = static_cast<int>(mine.size());
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Iallgather(buffers->mine.data(), count, MPI_DOUBLE, buffers->all.data(), count, MPI_DOUBLE, communicator_,
                         &request),
          "MPI_Iallgather");
    if (!wait(request)) {
      broken_ = true;
      static_cast<void>(buffers.release());  // MPI may still write there
      throw CommunicationError("MPI", "values of every rank within " + std::to_string(patience_.count()) + " ms",
                               "none from some", "A rank has ended or hangs.");
    }
    std::copy(buffers->all.begin(), buffers->all.end(), all.begin());
  }

 private:
  struct Buffers {
    std::vector<double> mine, all;
  };

  /// Whether the request ended in time.
  bool wait(MPI_Request& request) {
    const auto started = std::chrono::steady_clock::now();
    for (int done = 0;;) {
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done != 0) return true;
      const auto waited = std::chrono::steady_clock::now() - started;
      if (waited > patience_) return false;
      // Other ranks of this machine may need the core: a short wait spins, a long one sleeps.
      if (waited < std::chrono::milliseconds(1))
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  void check(int code, const char* function) {
    if (code == MPI_SUCCESS) return;
    broken_ = true;
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw CommunicationError(function, "success", std::string(text, static_cast<std::size_t>(length)));
  }

  std::chrono::milliseconds patience_;
  MPI_Comm communicator_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  bool broken_ = false;
};

}  // namespace kineograph
