"""Measuring what a method draws: judged pictures to figures, each with its bootstrap interval."""

from ..judges.judging import Judge, Question, Verdict
from ..prompts import Prompt, read_prompts
from .figures import Figure, WinRate, frechet_distance, frechet_figures, share, win_rate
from .report import Report, Row, build_report, judged_rows, to_figure

__all__ = [
    "Figure",
    "Judge",
    "Prompt",
    "Question",
    "Report",
    "Row",
    "Verdict",
    "WinRate",
    "build_report",
    "frechet_distance",
    "frechet_figures",
    "judged_rows",
    "read_prompts",
    "share",
    "to_figure",
    "win_rate",
]
