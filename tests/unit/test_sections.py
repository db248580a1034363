"""What a report and a diagnosis say, apart from how it is laid out: the seam for renderers."""

from __future__ import annotations

import html
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import run_builder as build
from scalable import diagnose_run
from scalable.analysis import load_report, render_text
from scalable.analysis.diagnosis_sections import diagnosis_outline
from scalable.analysis.report_sections import report_outline
from scalable.analysis.sections import (
    Facts,
    Frames,
    Item,
    Kind,
    Message,
    Outline,
    Quote,
    Role,
    Sentence,
    Table,
)
from scalable.analysis.units import formatted
from scalable_runs.reader import RunReader

HOSTILE = "<b>\x1b[31mred\u202e</b>"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has a bit of everything."""
    made = build.RunBuilder(tmp_path / "runs", "run-20260102T030405Z-x-0000aaaa")
    made.add(*(build.worker("ready", number, 0, host="here") for number in range(2)))
    made.add(build.usage(0, 2, 3.9))
    for i in range(6):
        made.add(*build.life(f"inc-{i:032x}", 1, 0.5, number=i % 2))
    made.add(
        build.task("submitted", "bad-1", 1),
        build.task("running", "bad-1", 2, worker=build.address(0)),
        build.failure(
            "ValueError",
            HOSTILE,
            3,
            task_id="bad-1",
            worker=build.address(0),
            traceback=build.TRACEBACK,
        ),
        build.task(
            "failed", "bad-1", 3, worker=build.address(0), duration_s=1.0, error_type="ValueError"
        ),
        build.failure(
            "WorkerLost",
            "worker 1 was lost",
            4,
            phase="worker_lost",
            worker=build.address(1),
            worker_id="1",
            signal="SIGSEGV",
            stderr_tail="Fatal Python error: Segmentation fault\n",
            tasks=["inc-1"],
        ),
        build.worker("lost", 1, 4, signal="SIGSEGV"),
        {
            "event_type": "artifact",
            "timestamp": build.at(5),
            "artifact_name": "model.bin",
            "size_bytes": 12_345,
        },
    )
    return made.finish(10, "failed")


def outlines(run: Path) -> list[Outline]:
    return [report_outline(load_report(RunReader(run))), diagnosis_outline(diagnose_run(run))]


def blocks_of(outline: Outline) -> list[object]:
    found: list[object] = []
    for section in outline.sections:
        for block in section.blocks:
            found += [block, *block.blocks] if isinstance(block, Item) else [block]
    return found


def test_values_of_tables_are_typed_by_their_column(run: Path):
    tables = [block for block in blocks_of(outlines(run)[0]) if isinstance(block, Table)]
    assert len(tables) >= 4
    kinds: set[str] = set()
    for table in tables:
        assert 0 <= table.widest < len(table.columns)
        for row in table.rows:
            for column, value in zip(table.columns, row.values, strict=True):
                kinds.add(column.kind)
                if value is not None:
                    assert isinstance(value, str) == (column.kind == "text"), (column, value)
    assert {"text", "count", "seconds", "gigabytes", "bytes", "share", "ordinal"} <= kinds
    assert kinds <= set(get_args(Kind))


def test_texts_are_as_they_were_recorded_and_safe_once_rendered(run: Path):
    report, diagnosis = outlines(run)
    messages = [block.title for block in blocks_of(report) if isinstance(block, Item)]
    assert any(isinstance(title, Message) and title.text == HOSTILE for title in messages)
    assert any(
        isinstance(block, Message) and block.text == HOSTILE for block in blocks_of(diagnosis)
    )
    for subject in (load_report(RunReader(run)), diagnose_run(run)):
        text = render_text(subject)
        assert "<b>red</b>" in text
        assert "\x1b" not in text


def test_sentences_have_no_layout_and_known_roles(run: Path):
    for outline in outlines(run):
        sentences = [block for block in blocks_of(outline) if isinstance(block, Sentence)]
        assert {sentence.role for sentence in sentences} <= set(get_args(Role))
        for sentence in sentences:
            assert sentence.text == sentence.text.strip() != ""
            assert "\n" not in sentence.text


def as_html(outline: Outline) -> str:
    """Another renderer, as small as it can be: nothing else of a run is needed for it."""

    def of(block: object) -> str:
        match block:
            case Sentence(text=text):
                return f"<p>{html.escape(text)}</p>"
            case Message(text=text, before=before, after=after):
                return f"<p>{html.escape(before + text + after)}</p>"
            case Quote(lines=lines):
                return f"<pre>{html.escape(chr(10).join(lines))}</pre>"
            case Frames(frames=frames, program=program):
                return f"<pre>{html.escape(chr(10).join(f.where(program) for f in frames))}</pre>"
            case Facts(facts=facts):
                rows = (f"<dt>{fact.label}<dd>{html.escape(fact.text)}" for fact in facts)
                return f"<dl>{''.join(rows)}</dl>"
            case Table(columns=columns, rows=rows):
                head = "".join(f"<th>{column.title}" for column in columns)
                kinds = [column.kind for column in columns]
                cells = [map(formatted, row.values, kinds) for row in rows]
                body = "".join(
                    f"<tr>{''.join(f'<td>{html.escape(cell)}' for cell in row)}" for row in cells
                )
                return f"<table><tr>{head}{body}</table>"
            case Item(title=title, blocks=blocks):
                shown = title if isinstance(title, str) else title.before + title.text
                return f"<li>{html.escape(shown)}{''.join(map(of, blocks))}</li>"
            case _:
                raise TypeError(block)

    return "".join(
        f"<h2>{html.escape(section.title)}</h2>{''.join(map(of, section.blocks))}"
        for section in outline.sections
    )


def test_another_renderer_needs_the_outline_alone(run: Path):
    report, diagnosis = map(as_html, outlines(run))
    assert "<h2>Slowest attempts</h2>" in report
    assert "model.bin" in report
    assert "<td>12 kB" in report
    assert html.escape(HOSTILE) in report
    assert HOSTILE not in report
    assert "Crash in native code" in diagnosis


def test_a_report_compiles_no_patterns_of_causes():
    code = "import sys, scalable.analysis; assert 'scalable.causes' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
