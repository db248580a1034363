"""What a task calls, as its worker sees it: in any shape in which Dask sends tasks."""

from __future__ import annotations

import functools
import operator
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import dask
import pytest
from dask._task_spec import Alias, DataNode, Dict, List, Task, TaskRef
from distributed import Client, LocalCluster, get_client

from scalable.instrumentation import dask_compat, task_calls
from scalable.instrumentation.signatures import bind
from scalable.instrumentation.task_calls import (
    MISSING,
    TaskCall,
    around,
    call_of,
    call_of_exception,
    function_of,
    functions_of,
)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A cluster in this process."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def failed_calls() -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """Function and arguments of each call that fails, as seen where it failed."""
    seen: list[tuple[Any, dict[str, Any]]] = []

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def truncate(error: BaseException, *args: Any) -> Any:
            call = call_of_exception(error)
            seen.append((call.function, call.arguments()) if call is not None else (None, {}))
            return original(error, *args)

        return truncate

    patch = dask_compat.truncation_patch(wrap)
    patch.apply()
    try:
        yield seen
    finally:
        patch.undo()


def fail(x: Any, y: Any = 2, *rest: Any, flag: Any = None, **more: Any) -> Any:
    raise ValueError("planned")


def fail_simply(x: Any) -> Any:
    raise ValueError("planned")


def fail_on_two(x: Any) -> Any:
    if x == 2:
        raise ValueError("planned")
    return x


def double(x: Any) -> Any:
    return x * 2


async def fail_later(x: Any, *, delay: float = 0.0) -> Any:
    raise ValueError("planned")


async def add_later(x: Any, y: Any) -> Any:
    return x + y


class Model:
    def __init__(self, size: int) -> None:
        self.size = size

    def fit(self, data: Any, rounds: int = 1) -> Any:
        raise ValueError("planned")

    def __call__(self, data: Any) -> Any:
        raise ValueError("planned")


class Refusing:
    def __init__(self, size: int) -> None:
        raise ValueError("planned")


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@decorated
def fail_decorated(x: Any, y: Any) -> Any:
    raise ValueError("planned")


class Point(NamedTuple):
    x: Any
    y: Any


def only(seen: list[tuple[Any, dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    ((function, arguments),) = seen
    return function.__name__, arguments


def submitted(client: Client, *args: Any, **kwargs: Any) -> tuple[str, dict[str, Any]]:
    with failed_calls() as seen:
        future = client.submit(*args, pure=False, **kwargs)
        assert isinstance(future.exception(timeout=30), ValueError)
    return only(seen)


def computed(*args: Any, **kwargs: Any) -> tuple[str, dict[str, Any]]:
    with failed_calls() as seen, pytest.raises(ValueError, match="planned"):
        dask.compute(*args, **kwargs)
    return only(seen)


def test_submit_gives_each_argument_by_its_name(client: Client) -> None:
    found = submitted(client, fail, 1, 2, 3, 4, flag=5, other=6)
    assert found == ("fail", {"x": 1, "y": 2, "flag": 5, "*rest": (3, 4), "other": 6})
    assert submitted(client, fail, y=1, x=2) == ("fail", {"x": 2, "y": 1})


def test_results_of_other_tasks_are_arguments_where_they_stand(client: Client) -> None:
    four = client.submit(double, 2)
    assert submitted(client, fail, four, {"a": [four, 1]}, flag=(four,)) == (
        "fail",
        {"x": 4, "y": {"a": [4, 1]}, "flag": (4,)},
    )
    assert submitted(client, fail, Point(four, 1)) == ("fail", {"x": Point(4, 1)})


def test_partials_methods_lambdas_classes_and_callables(client: Client) -> None:
    partial = functools.partial(functools.partial(fail, 1), y=3)
    assert submitted(client, partial, flag=1) == ("fail", {"x": 1, "y": 3, "flag": 1})
    model = Model(3)
    name, arguments = submitted(client, model.fit, "data", rounds=2)
    assert name == "fit"
    assert arguments.pop("self").size == 3
    assert arguments == {"data": "data", "rounds": 2}
    with failed_calls() as seen:
        client.submit(model, "data", pure=False).exception(timeout=30)
        client.submit(lambda a, b: fail(a), 1, b=2, pure=False).exception(timeout=30)
    (called, by_call), (_, by_lambda) = seen
    assert (type(called), list(by_call), by_call["data"]) == (Model, ["self", "data"], "data")
    assert by_lambda == {"a": 1, "b": 2}
    assert submitted(client, Refusing, 7) == ("Refusing", {"size": 7})
    assert submitted(client, fail_decorated, 1, y=2) == ("fail_decorated", {"x": 1, "y": 2})


def test_a_call_that_does_not_fit_and_a_function_without_names(client: Client) -> None:
    with failed_calls() as seen:
        client.submit(double, 1, 2, z=3, pure=False).exception(timeout=30)
        client.submit(operator.truediv, 1, 0, pure=False).exception(timeout=30)
        client.submit(operator.itemgetter(3), [], pure=False).exception(timeout=30)
    assert [arguments for _, arguments in seen] == [
        {"*args": (1, 2), "z": 3},
        {"a": 1, "b": 0},
        {"*args": ([],)},
    ]


def test_map_with_several_iterables_and_keywords(client: Client) -> None:
    with failed_calls() as seen:
        for future in client.map(fail, [1, 2], [3, 4], flag="f", pure=False):
            future.exception(timeout=30)
    found = sorted(arguments["x"] for _, arguments in seen)
    assert found == [1, 2]
    assert all(a["y"] == a["x"] + 2 and a["flag"] == "f" for _, a in seen)


def test_delayed_with_other_delayed_values_in_its_arguments(client: Client) -> None:
    two = dask.delayed(double)(1)
    assert computed(dask.delayed(fail)(two, [two, {"k": two}], flag=3)) == (
        "fail",
        {"x": 2, "y": [2, {"k": 2}], "flag": 3},
    )


def test_the_failing_item_of_a_bag(client: Client) -> None:
    bag = pytest.importorskip("dask.bag").from_sequence([1, 2, 3], npartitions=1)
    assert computed(bag.map(double).map(lambda x: x // 2).map(fail_on_two)) == (
        "fail_on_two",
        {"x": 2},
    )
    name, arguments = computed(bag.map(fail, flag=5))
    assert (name, arguments) == ("fail", {"x": 1, "flag": 5})


def test_the_failing_block_of_an_array_whose_tasks_are_fused(client: Client) -> None:
    np = pytest.importorskip("numpy")
    array = pytest.importorskip("dask.array").ones((2, 2), chunks=(2, 2))
    name, arguments = computed((array + 1).map_blocks(fail_simply, meta=array._meta).sum())
    assert name == "fail_simply"
    np.testing.assert_array_equal(arguments["x"], np.full((2, 2), 2.0))


def test_a_function_applied_to_partitions_of_a_dataframe(client: Client) -> None:
    pytest.importorskip("pyarrow")
    dd = pytest.importorskip("dask.dataframe")
    pd = pytest.importorskip("pandas")
    frame = dd.from_pandas(pd.DataFrame({"a": [1, 2]}), npartitions=1)
    name, arguments = computed(frame.map_partitions(fail, 3, meta=frame._meta, flag=1))
    assert (name, list(arguments)) == ("fail", ["x", "y", "flag"])
    assert list(arguments["x"]["a"]) == [1, 2]


def test_coroutines(client: Client) -> None:
    four = client.submit(double, 2)
    assert submitted(client, fail_later, [four], delay=0.5) == (
        "fail_later",
        {"x": [4], "delay": 0.5},
    )


def test_what_a_task_computes_itself_is_not_its_call(client: Client) -> None:
    def outer(n: int) -> Any:
        return dask.delayed(fail_simply)(n + 1).compute(scheduler="synchronous")

    assert submitted(client, outer, 1) == ("outer", {"n": 1})

    def through_a_client(n: int) -> Any:
        return get_client().submit(fail_simply, n + 1, pure=False).result()

    with failed_calls() as seen:
        client.submit(through_a_client, 1, pure=False).exception(timeout=30)
    assert [arguments for _, arguments in seen] == [{"x": 2}, {"n": 1}]


def test_an_exception_that_no_task_raised() -> None:
    assert call_of_exception(ValueError("never raised")) is None
    with pytest.raises(ValueError) as caught:
        fail_simply(1)
    assert call_of_exception(caught.value) is None


def test_the_parts_of_a_fused_task_are_calls_within_a_call() -> None:
    first = Task("first", double, TaskRef("given"))
    second = Task("second", fail, List(TaskRef("first"), 1), flag=Dict({"a": DataNode(None, 5)}))
    fused = Task.fuse(first, second)
    call = call_of(fused, {"given": 3})
    assert call is not None
    assert call.function is fail
    inner = call.args[0][0]
    assert isinstance(inner, TaskCall)
    assert (inner.function, inner.args) == (double, (3,))
    assert call.arguments()["flag"] == {"a": 5}
    assert list(functions_of(fused)) == [fail, double]
    assert function_of(fused) is fail


def test_arguments_that_are_not_known() -> None:
    call = call_of(Task("t", fail, TaskRef("gone"), Alias("also", "gone")), {})
    assert call is not None
    assert call.args == (MISSING, MISSING)
    assert call_of(DataNode("d", 1), {}) is None
    assert call_of(Alias("a", "b"), {"b": 1}) is None
    assert (function_of(DataNode("d", 1)), function_of(None)) == (None, None)


def test_defaults_are_added_where_asked() -> None:
    assert bind(fail, (1,), {}, defaults=True) == {"x": 1, "y": 2, "flag": None}
    assert bind(Model.fit, (None, 1), {}, defaults=True) == {"self": None, "data": 1, "rounds": 1}


# -- hooks ----------------------------------------------------------------------------------------


@contextmanager
def hooked(hook: Any, coroutine_hook: Any = None) -> Iterator[None]:
    undo = around(hook, coroutine_hook)
    try:
        yield
    finally:
        undo()
        undo()  # once more changes nothing


def test_hooks_see_calls_and_results_and_the_first_is_outermost(client: Client) -> None:
    seen: list[Any] = []

    def outer(call: TaskCall, proceed: Callable[[], Any]) -> Any:
        result = proceed()
        assert proceed() == result  # it runs once
        seen.append(("outer", call.arguments(), result, threading.current_thread().name))
        return result

    def inner(call: TaskCall, proceed: Callable[[], Any]) -> Any:
        return proceed() + 1

    with hooked(outer), hooked(inner):
        assert client.submit(double, 3, pure=False).result(30) == 7
    ((_, arguments, result, thread),) = seen
    assert (arguments, result) == ({"x": 3}, 7)
    assert "Dask-Default-Threads" in thread
    assert client.submit(double, 3, pure=False).result(30) == 6
    assert len(seen) == 1


def test_a_hook_may_answer_in_the_place_of_the_task(client: Client) -> None:
    with hooked(lambda call, proceed: "kept"):
        assert client.submit(fail, 1, pure=False).result(30) == "kept"
        assert dask.delayed(double)(1).compute() == "kept"


def test_the_error_of_a_task_is_that_of_the_task(client: Client) -> None:
    def swallow(call: TaskCall, proceed: Callable[[], Any]) -> Any:
        try:
            return proceed()
        except ValueError:
            return "swallowed"

    with failed_calls() as seen:
        bare = client.submit(fail, 1, pure=False)
        bare.exception(timeout=30)
        with hooked(swallow), hooked(lambda call, proceed: proceed()):
            future = client.submit(fail, 1, pure=False)
            assert isinstance(future.exception(timeout=30), ValueError)
    assert seen == [(fail, {"x": 1}), (fail, {"x": 1})]

    def frames(of: Any) -> list[str]:
        traceback, names = of.traceback(timeout=30), []
        while traceback is not None:
            names.append(traceback.tb_frame.f_code.co_name)
            traceback = traceback.tb_next
        return names

    # The hooks leave no frames in what users read.
    assert frames(future) == frames(bare) == ["fail"]


def test_a_hook_that_fails_does_not_reach_the_task(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCALABLE_STRICT", raising=False)

    def before(call: TaskCall, proceed: Callable[[], Any]) -> Any:
        raise RuntimeError("mine")

    def after(call: TaskCall, proceed: Callable[[], Any]) -> Any:
        proceed()
        raise RuntimeError("mine")

    counted = task_calls.guard.errors["task_hook:RuntimeError"]
    with hooked(before), hooked(after):
        assert client.submit(double, 2, pure=False).result(30) == 4
    assert task_calls.guard.errors["task_hook:RuntimeError"] == counted + 2


def test_coroutines_have_hooks_of_their_own(client: Client) -> None:
    async def hook(call: TaskCall, proceed: Callable[[], Any]) -> Any:
        assert call.arguments()["x"] == 1
        return await proceed() * 10

    with failed_calls() as seen, hooked(lambda call, proceed: "never", hook):
        assert client.submit(add_later, 1, 2, pure=False).result(30) == 30
        future = client.submit(fail_later, 1, pure=False)
        assert isinstance(future.exception(timeout=30), ValueError)
    assert seen == [(fail_later, {"x": 1})]


def test_hooks_come_and_go_while_tasks_run(client: Client) -> None:
    futures = client.map(lambda x: (time.sleep(0.001), x)[1], range(200), pure=False)

    def pass_on(call: TaskCall, proceed: Callable[[], Any]) -> Any:
        return proceed()

    def come_and_go() -> None:
        for _ in range(50):
            around(pass_on)()

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(come_and_go) for _ in range(4)]:
            each.result()
    assert client.gather(futures) == list(range(200))
    from distributed import core, worker

    for function in (worker._run_task_simple, worker._run_task_async, core.get_traceback):
        assert not hasattr(function, "__wrapped__")
