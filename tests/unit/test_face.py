"""What `import scalable` offers, and what it says where a package is missing."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import scalable
import scalable.session


def test_every_name_of_the_package_can_be_imported():
    for name in scalable.__all__:
        assert getattr(scalable, name) is not None
    for name in scalable.session.__all__:
        assert getattr(scalable.session, name) is getattr(scalable, name)
    assert issubclass(scalable.StartError, scalable.SessionError)
    assert issubclass(scalable.TagError, ValueError)
    with pytest.raises(AttributeError):
        scalable.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("missing", "code", "extra"),
    [
        ("pydantic", "from scalable import ScalableSession", "session"),
        ("yaml", "from scalable import ScalableSession", "session"),
        ("distributed", "from scalable import ScalableClient", "session"),
        ("distributed", "import scalable; scalable.instrument(object())", "dask"),
        ("distributed", "import scalable; scalable.uninstrument()", "dask"),
        ("distributed", "import scalable; scalable.StartError", None),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    missing: str, code: str, extra: str | None
):
    program = f"""
    import sys
    sys.modules[{missing!r}] = None
    try:
        {code}
    except ImportError as error:
        print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    if extra is None:
        assert done.stdout == ""
    else:
        assert f"pip install 'scalable-otel[{extra}]'" in done.stdout
        assert missing in done.stdout
