#include "vad/detector.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "vad/error.hpp"

namespace vad {
namespace {

const std::string frozen_picture = "frozen picture";  // the hole of a live source's repeats

}  // namespace

Detector::Detector(const Manifest& manifest, Backend& backend, std::optional<int> hop)
    : score_(manifest.score),
      backend_(backend),
      ring_(backend.ring()),
      window_(manifest.clip, *ring_, hop),
      scorer_(manifest.scoring),
      alarm_(manifest.scoring) {}

void Detector::feed(Frame frame, const std::optional<std::string>& hole, const Take& take) {
  ++counters_.frames;
  if (hole) end(*hole, take);
  const Pending entry{frame.index, frame.pts_s};
  if (frame.damaged) {
    settle(entry, std::nullopt, frame.hole == frozen_picture ? "frozen" : "damaged", take);
    return;
  }
  const std::optional<Clip> clip = window_.push(frame);
  pending_.push_back(entry);
  if (clip) use(*clip, take);
}

void Detector::end(const std::optional<std::string>& cause, const Take& take) {
  if (cause && !window_.empty()) ++counters_.flushes[*cause];
  if (const std::optional<Clip> clip = window_.flush()) use(*clip, take);
  while (!pending_.empty()) {
    const Pending frame = pending_.front();
    pending_.pop_front();
    std::string status = "warm-up";
    if (last_in_clip_) status = frame.index <= *last_in_clip_ ? "context" : "between";
    settle(frame, std::nullopt, status, take);
  }
  last_in_clip_.reset();
  scorer_.reset();
  end_alarm();
}

void Detector::end_alarm() {
  if (const std::optional<Event> event = alarm_.end()) events_.push_back(*event);
}

void Detector::use(const Clip& clip, const Take& take) {
  const std::vector<float> scores = backend_.infer(clip.pixels);
  ++counters_.clips;

  // Frames of the clip, from `first` on, that the scores belong to.
  const bool one_for_all = score_.per == ScoreSpec::Per::clip;
  const auto first = static_cast<std::size_t>(one_for_all ? 0 : score_.first);
  const std::size_t count =
      one_for_all ? clip.indices.size() : static_cast<std::size_t>(score_.count);
  const std::size_t wanted = one_for_all ? 1 : count;
  if (scores.size() != wanted) {
    throw Error("The back end gave " + std::to_string(scores.size()) + " scores for a clip, not " +
                std::to_string(wanted) + ". Export the bundle again.");
  }
  const auto begin = clip.indices.begin() + static_cast<std::ptrdiff_t>(first);
  const auto end = begin + static_cast<std::ptrdiff_t>(count);
  last_in_clip_ = clip.indices.back();
  while (!pending_.empty() && pending_.front().index <= *(end - 1)) {
    const Pending frame = pending_.front();
    pending_.pop_front();
    std::optional<double> raw;
    const auto found = std::lower_bound(begin, end, frame.index);
    if (found != end && *found == frame.index) {
      raw = one_for_all ? scores.front() : scores[static_cast<std::size_t>(found - begin)];
    }
    const bool seen = std::binary_search(clip.indices.begin(), clip.indices.end(), frame.index);
    settle(frame, raw, seen ? "context" : "between", take);
  }
}

void Detector::settle(const Pending& frame, std::optional<double> raw, const std::string& status,
                      const Take& take) {
  ScoredFrame scored;
  scored.index = frame.index;
  scored.pts_s = frame.pts_s;
  scored.raw = raw;
  scored.status = raw ? "scored" : status;
  if (raw) {
    ++counters_.scored;
    scored.score = scorer_.update(*raw);
    const auto event = alarm_.update(frame.index, frame.pts_s, *scored.score);
    if (event) events_.push_back(*event);
  } else {
    ++counters_.unscored[status];
  }
  scored.alarm = alarm_.active();
  take(scored);
}

}  // namespace vad
