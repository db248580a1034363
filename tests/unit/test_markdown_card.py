"""The card of a run in Markdown: complete, on one page, and harmless whatever was recorded."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from scalable.analysis.markdown_renderer import outline_markdown
from scalable.analysis.sections import Column, Fact, Facts, Outline, Quote, Row, Section, Table
from scalable.cli import cli

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"


def test_the_card_says_what_ran_and_what_failed():
    run = RUNS / "run-20261127T171719Z-work-8577fde1"
    result = CliRunner().invoke(cli, ["report", str(run), "--format", "md"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith("# work: completed in ")
    assert "- **Tasks**: 18 tasks: 15 succeeded, 3 failed" in lines
    assert "### 2 × ConnectionError: could not reach the database at db.example.org:5432" in lines
    assert any(line.startswith("| inc (12 succeeded") for line in lines)
    assert len(lines) < 80
    assert "\x1b" not in result.output


def test_recorded_text_makes_no_markup():
    hostile = "<script>x</script> [a](http://evil) `code` | cell *bold* _it_ # no\n# heading"
    outline = Outline(
        "# title",
        (
            Section(
                (
                    Facts((Fact("1. label", hostile),)),
                    Quote(("```", hostile)),
                    Table((Column("a|b"),), (Row((hostile,)),)),
                ),
                "- list",
            ),
        ),
    )
    text = outline_markdown(outline)
    lines = text.splitlines()
    assert lines[0] == "# \\# title"
    assert "## \\- list" in lines
    fact = next(line for line in lines if line.startswith("- **1\\. label**"))
    assert "\\<script\\>" in fact
    assert "\\[a\\](http" in fact
    assert "\\| cell" in fact
    # The fence is longer than what is within.
    assert lines.count("````") == 2
    row = next(line for line in lines if line.startswith("| \\<script"))
    assert row.replace("\\|", "").count("|") == 2
