"""Measuring what a method draws: judged pictures to figures, each with its 95 % interval."""

from ..judges.judging import Judge, Question, Verdict
from ..prompts import Prompt, read_prompts
from .calibration import Calibration, calibrated_strength
from .changes import Change, changes
from .comparisons import Step, paired_difference, step_up
from .figures import Figure, frechet_distance, frechet_figures, mean, mean_difference, share, win_shares
from .measurements import BASE, HARMLESS, Drawn, Measurement, Price, measure
from .report import Report, build_report, to_figure
from .rows import Row, judged_rows

__all__ = [
    "BASE",
    "HARMLESS",
    "Calibration",
    "Change",
    "Drawn",
    "Figure",
    "Judge",
    "Measurement",
    "Price",
    "Prompt",
    "Question",
    "Report",
    "Row",
    "Step",
    "Verdict",
    "build_report",
    "calibrated_strength",
    "changes",
    "frechet_distance",
    "frechet_figures",
    "judged_rows",
    "mean",
    "mean_difference",
    "measure",
    "paired_difference",
    "read_prompts",
    "share",
    "step_up",
    "to_figure",
    "win_shares",
]
