// vad-run-cpp: watch a source with a bundle, without Python.
//
// Exit codes are those of Python's vad-run: 0, 1 for an error or a wrong option, 130 after Ctrl-C
// or SIGTERM.

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "options.hpp"
#include "run.hpp"
#include "vad/error.hpp"

namespace {

constexpr int interrupted_code = 130;  // as shells have it: 128 + SIGINT

// Takes SIGINT and SIGTERM in a thread of its own, where anything may be called. While a run has
// said how it is ended, the first one ends it; any other ends the process at once.
class Interrupts {
 public:
  // Before any other thread starts: all of them inherit what is blocked here.
  Interrupts() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    sigaddset(&signals_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    thread_ = std::thread([this] { wait(); });
  }
  ~Interrupts() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      over_ = true;
    }
    pthread_kill(thread_.native_handle(), SIGTERM);
    thread_.join();
  }
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  void set(std::function<void()> stop) {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = std::move(stop);
  }

 private:
  void wait() {
    for (;;) {
      int number = 0;
      sigwait(&signals_, &number);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (over_) return;
      if (!stop_) {
        std::fputs("Interrupted.\n", stderr);
        _exit(interrupted_code);
      }
      stop_();
      stop_ = nullptr;
    }
  }

  sigset_t signals_{};
  std::mutex mutex_;
  std::function<void()> stop_;
  bool over_ = false;
  std::thread thread_;
};

// A file that is opened where one of the three is closed would take its number, and what we print.
void open_standard_streams() {
  for (int number = STDIN_FILENO; number <= STDERR_FILENO; ++number) {
    const bool closed = fcntl(number, F_GETFD) == -1 && errno == EBADF;
    if (closed && open("/dev/null", O_RDWR) != number) _exit(1);
  }
}

// White space of any kind becomes one space: an error is one line.
std::string one_line(const std::string& text) {
  std::string line;
  bool space = false;
  for (const char c : text) {
    if (c == ' ' || (c >= '\t' && c <= '\r')) {
      space = true;
      continue;
    }
    if (space && !line.empty()) line += ' ';
    space = false;
    line += c;
  }
  return line;
}

int fail(const std::string& message) {
  std::fprintf(stderr, "Error: %s\n", one_line(message).c_str());
  return 1;
}

}  // namespace

int main(int count, char** values) {
  open_standard_streams();
  std::signal(SIGPIPE, SIG_IGN);  // a write then says so
  try {
    const vad::app::Options options = vad::app::parse({values + 1, values + count});
    if (options.what != vad::app::Options::What::run) {
      const bool wants_help = options.what == vad::app::Options::What::help;
      std::string text = wants_help ? vad::app::help() : vad::app::version();
      text.pop_back();  // the end of line that say() adds
      vad::app::say(text);
      return 0;
    }
    Interrupts interrupts;
    if (vad::app::run(options, [&](std::function<void()> stop) { interrupts.set(stop); })) return 0;
    std::fputs("Interrupted.\n", stderr);
    return interrupted_code;
  } catch (const vad::app::UsageError& error) {
    return fail(std::string(error.what()) + " See: vad-run-cpp --help");
  } catch (const vad::app::BrokenPipe&) {
    return 1;
  } catch (const vad::Error& error) {
    return fail(error.what());
  } catch (const std::exception& error) {
    return fail(std::string("unexpected: ") + error.what() +
                ". This is a mistake in vad-edge. Report it with the command.");
  }
}
