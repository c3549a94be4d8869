"""Building data sets of preference pairs: plan -> pictures, drawn or imported -> labels -> lists."""

from .plan import Plan, drawn_pairs, plan
from .run import LABELLERS, SHEET, Built, Drawing, Said, build_dataset

__all__ = ["LABELLERS", "SHEET", "Built", "Drawing", "Plan", "Said", "build_dataset", "drawn_pairs", "plan"]
