"""Measuring what a method draws: judged pictures to figures, each with its 95 % interval."""

from ..judges.judging import Judge, Question, Verdict
from ..prompts import Prompt, read_prompts
from .figures import Figure, frechet_distance, frechet_figures, mean, share, win_shares
from .measurements import BASE, HARMLESS, Drawn, Measurement, Price, measure
from .report import Report, build_report, to_figure
from .rows import Row, judged_rows

__all__ = [
    "BASE",
    "HARMLESS",
    "Drawn",
    "Figure",
    "Judge",
    "Measurement",
    "Price",
    "Prompt",
    "Question",
    "Report",
    "Row",
    "Verdict",
    "build_report",
    "frechet_distance",
    "frechet_figures",
    "judged_rows",
    "mean",
    "measure",
    "read_prompts",
    "share",
    "to_figure",
    "win_shares",
]
