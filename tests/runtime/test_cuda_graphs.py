"""The cache of CUDA graphs, on `HostCuda`, whose work can wait for `synchronise`."""

from collections.abc import Callable

import numpy as np
import pytest
from helpers_cuda import HostCuda, put_on_stream

from vad_runtime.contracts import BackendError
from vad_runtime.cuda import GraphCache


class Doubling:
    """Copies a number in, doubles it on the "device" and copies it out."""

    def __init__(self, cuda: HostCuda, stream: int) -> None:
        self.cuda, self.stream = cuda, stream
        self.there, self.back = cuda.pinned(4), cuda.pinned(4)
        self.address = cuda.allocate(4)
        self.enqueued = 0

    def enqueue(self) -> None:
        self.enqueued += 1
        self.cuda.copy_in(self.address, self.there, self.stream)
        memory = self.cuda.view(self.address, 4)
        put_on_stream(self.stream, lambda: np.multiply(memory, 2, out=memory))
        self.cuda.copy_out(self.back, self.address, self.stream)


Make = Callable[..., tuple[HostCuda, GraphCache, Doubling]]


@pytest.fixture
def make() -> Make:
    def made(*, graphs: bool = True, **cache: object) -> tuple[HostCuda, GraphCache, Doubling]:
        cuda = HostCuda(graphs=graphs, deferred=True)
        stream = cuda.stream()
        return cuda, GraphCache(cuda, stream, **cache), Doubling(cuda, stream)  # type: ignore[arg-type]

    return made


def doubled(cuda: HostCuda, graphs: GraphCache, work: Doubling, value: int) -> None:
    work.there[:] = value
    graphs.run("k", work.enqueue)
    cuda.synchronise(work.stream)
    assert (work.back == 2 * value).all()


def test_work_is_enqueued_once_and_recorded_once_and_then_only_launched(make: Make) -> None:
    cuda, graphs, work = make()
    for value in range(1, 8):
        doubled(cuda, graphs, work, value)
    assert work.enqueued == 2
    assert [graph.launches for graph in cuda.made] == [6]
    assert graphs.fallback is None


def test_the_first_run_is_waited_for_before_it_is_recorded(make: Make) -> None:
    cuda, graphs, work = make()
    graphs.run("k", work.enqueue)
    calls = [call.split()[0] for call in cuda.calls]
    assert calls.index("synchronise") < calls.index("capture")


def test_a_launch_does_not_wait(make: Make) -> None:
    cuda, graphs, work = make()
    graphs.run("k", work.enqueue)
    cuda.calls.clear()
    graphs.run("k", work.enqueue)
    assert [call.split()[0] for call in cuda.calls] == ["launch"]


def test_the_context_is_made_current_for_work_of_other_libraries(make: Make) -> None:
    cuda, graphs, work = make(enabled=False)
    before = cuda.activations
    graphs.run("k", work.enqueue)
    assert cuda.activations > before


def test_another_key_is_another_graph(make: Make) -> None:
    cuda, graphs, work = make()
    other = Doubling(cuda, work.stream)
    for value in (1, 2, 3):
        doubled(cuda, graphs, work, value)
        other.there[:] = 10 + value
        graphs.run(("other", 1), other.enqueue)
        cuda.synchronise(work.stream)
        assert (other.back == 20 + 2 * value).all()
    assert len(graphs) == 2


def test_the_graph_that_was_not_used_for_longest_makes_room(make: Make) -> None:
    cuda, graphs, work = make(limit=2)
    for key in ("a", "b", "a", "c"):
        graphs.run(key, work.enqueue)
    a, b, c = cuda.made
    assert (a.closed, b.closed, c.closed) == (False, True, False)
    assert len(graphs) == 2


def test_without_graphs_the_work_runs_directly_and_the_reason_is_told(make: Make) -> None:
    cuda, graphs, work = make(graphs=False)
    for value in (1, 2, 3):
        doubled(cuda, graphs, work, value)
    assert work.enqueued == 3
    assert graphs.fallback == "the test switched graphs off"
    assert sum("capture" in call for call in cuda.calls) == 1  # it is not tried again


def test_switched_off_nothing_is_ever_recorded(make: Make) -> None:
    cuda, graphs, work = make(enabled=False)
    for value in (1, 2):
        doubled(cuda, graphs, work, value)
    assert not any("capture" in call for call in cuda.calls)
    assert graphs.fallback == "switched off"


def test_work_that_refuses_to_be_captured_runs_directly_for_ever(make: Make) -> None:
    cuda, graphs, work = make()

    def enqueue() -> None:
        if cuda.capturing:
            raise BackendError("enqueue failed: not while capturing.")
        work.enqueue()

    for value in (1, 2, 3):
        work.there[:] = value
        graphs.run("k", enqueue)
        cuda.synchronise(work.stream)
        assert (work.back == 2 * value).all()
    assert graphs.fallback == "enqueue failed: not while capturing."
    assert not cuda.capturing


def test_an_error_of_the_direct_run_is_the_callers_and_is_no_reason_to_give_up_graphs(
    make: Make,
) -> None:
    cuda, graphs, work = make()

    def failing() -> None:
        raise BackendError("out of memory")

    with pytest.raises(BackendError, match="out of memory"):
        graphs.run("k", failing)
    assert graphs.fallback is None
    doubled(cuda, graphs, work, 3)
    assert len(graphs) == 1


def test_a_bug_while_capturing_is_not_hidden(make: Make) -> None:
    cuda, graphs, work = make()

    def enqueue() -> None:
        work.enqueue()
        if cuda.capturing:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        graphs.run("k", enqueue)
    assert not cuda.capturing
    doubled(cuda, graphs, work, 4)


def test_closing_frees_the_graphs_and_a_second_time_does_nothing(make: Make) -> None:
    cuda, graphs, work = make()
    graphs.run("a", work.enqueue)
    graphs.run("b", work.enqueue)
    graphs.close()
    graphs.close()
    assert all(graph.closed for graph in cuda.made)
    assert len(graphs) == 0
