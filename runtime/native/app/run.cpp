#include "run.hpp"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "report.hpp"
#include "results.hpp"
#include "stage.hpp"
#include "vad/backend.hpp"
#include "vad/bundle.hpp"
#include "vad/detector.hpp"
#include "vad/error.hpp"
#include "vad/rows.hpp"
#include "vad/source.hpp"
#include "vad/window.hpp"

namespace vad::app {
namespace {

template <typename... Values>
std::string text(const char* format, Values... values) {
  char line[512];
  std::snprintf(line, sizeof line, format, values...);
  return line;
}

std::string last_part(const std::string& path) {
  const std::size_t end = path.find_last_not_of('/');
  if (end == std::string::npos) return path;
  const std::size_t slash = path.find_last_of('/', end);
  const std::size_t start = slash == std::string::npos ? 0 : slash + 1;
  return path.substr(start, end + 1 - start);
}

// Prints a line when an alarm starts and one when it ends.
class Announcer {
 public:
  void operator()(const ScoredFrame& frame) {
    if (frame.alarm && !alarm_) {
      since_s_ = frame.pts_s;
      say(text("ALARM  %8.2f s  frame %lld  %.2f", frame.pts_s,
               static_cast<long long>(frame.index), frame.score.value_or(0.0)));
    } else if (alarm_ && !frame.alarm) {
      say(text("over   %8.2f s  after %.2f s", frame.pts_s, frame.pts_s - since_s_));
    }
    alarm_ = frame.alarm;
  }

 private:
  bool alarm_ = false;
  double since_s_ = 0.0;
};

void print_summary(const Facts& facts, const std::string& out) {
  const SourceInfo& info = facts.source->info();
  const std::string name = info.kind == live_kind ? info.name : last_part(info.name);
  std::string line = name + ": " + std::to_string(facts.detector->counters().frames) + " frames, " +
                     std::to_string(facts.detector->counters().clips) + " clips, " +
                     std::to_string(facts.detector->events().size()) + " alarms";
  if (facts.peak) line += text(", peak %.2f at %.2f s", facts.peak->score, facts.peak->time_s);
  const std::int64_t lost = dropped_frames(*facts.source) + facts.source->stats().damaged;
  if (lost > 0) line += ", " + std::to_string(lost) + " frames lost";
  say(line + " -> " + out);
  for (const std::string& note : notes(facts)) say("  note: " + note);
}

// Keeps the way to end the run early open as long as there is a run.
class Interruptible {
 public:
  Interruptible(const OnInterrupt& on_interrupt, std::function<void()> stop)
      : on_interrupt_(on_interrupt) {
    on_interrupt_(std::move(stop));
  }
  ~Interruptible() { on_interrupt_(nullptr); }
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  const OnInterrupt& on_interrupt_;
};

}  // namespace

void say(const std::string& line) {
  const bool good = std::fputs((line + "\n").c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
  if (good) return;
  if (errno == EPIPE) throw BrokenPipe();
  throw Error(std::string("standard output cannot be written (") + std::strerror(errno) +
              "). Send it elsewhere.");
}

bool run(const Options& options, const OnInterrupt& on_interrupt) {
  const Bundle bundle = Bundle::open(options.bundle, options.verify);
  const Manifest& manifest = bundle.manifest();
  if (manifest.takes_features) {
    throw Error(bundle.name() +
                " scores precomputed features of whole videos, not frames. Use Python's: vad-run "
                "score " +
                bundle.name() + " FEATURES");
  }
  refuse_old_results(options.out, options.overwrite);  // before an engine is loaded

  const Choice choice = open_backend(bundle, options.backend, options.engine);
  say(bundle.name() + ": " + manifest.name + " on " + choice.line());

  Facts facts;
  facts.bundle = &bundle;
  facts.choice = &choice;
  SourceOptions input = options.input;
  input.say = [](const std::string& line) {
    try {
      say(line);
    } catch (const std::exception&) {  // the next row finds out too, in the thread that may throw
    }
  };
  const std::unique_ptr<Source> source = prefetched(
      std::make_unique<TimedSource>(open_source(options.source, manifest.clip, input),
                                    facts.decode));
  facts.source = source.get();
  const bool camera = source->info().kind == live_kind;

  ResultFolder folder(options.out);
  TimedBackend backend(*choice.backend, facts.infer);
  Detector detector(manifest, backend, options.hop);
  facts.detector = &detector;
  RowWriter rows(options.out);

  std::atomic<bool> interrupted{false};
  const Interruptible interruptible(on_interrupt, [&] {
    interrupted = true;
    source->stop();
  });

  Announcer announce;
  const Detector::Take take = [&](const ScoredFrame& frame) {
    {
      const Timed timed(facts.sinks);
      rows.write(frame);
      if (frame.score && (!facts.peak || *frame.score > facts.peak->score)) {
        facts.peak = Peak{frame.pts_s, *frame.score};
      }
    }
    announce(frame);
  };

  const auto start = std::chrono::steady_clock::now();
  try {
    HoleRule holes(camera ? std::nullopt : std::optional<double>(source->info().fps));
    Frame frame;
    while (source->next(frame)) {
      const std::optional<std::string> hole = holes.cause(frame);
      detector.feed(std::move(frame), hole, take);
    }
    detector.end(std::nullopt, take);
    facts.interrupted = interrupted;
    if (detector.counters().clips == 0 && !facts.interrupted) {
      throw Error(source->info().name + " has " + std::to_string(detector.counters().frames) +
                  " frames, none of them in a row of the " + std::to_string(manifest.clip.span()) +
                  " that one clip needs. Give a longer video.");
    }
    rows.close();
  } catch (...) {
    // Rows that hold scores were promised to be safe.
    if (detector.counters().scored == 0) folder.remove_rows();
    throw;
  }
  facts.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  folder.write_report(report(facts));
  print_summary(facts, options.out);
  return !facts.interrupted;
}

}  // namespace vad::app
