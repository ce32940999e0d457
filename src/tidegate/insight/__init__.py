"""Looking inside an LSTM: arrays in, small typed results out; nothing here draws.

Every function takes a ``tg.LSTM`` and data, or a ``score`` that runs a model around it; every result holds
arrays and a ``to_frame()``. docs/insight.md has the equations, and what each figure cannot tell.
"""

from tidegate.insight.ablate import Ablation, ablate, ablate_each
from tidegate.insight.attribution import Attribution, attribute
from tidegate.insight.calls import capture
from tidegate.insight.gap import Agreement, LedgerGap, ledger_gap
from tidegate.insight.gradients import GradientFlow, gradient_flow
from tidegate.insight.history import History, history_kept
from tidegate.insight.ledger import Ledger, ledger
from tidegate.insight.match import Match, Span, match
from tidegate.insight.model import OpenForecast, open_forecast
from tidegate.insight.output import OutputLedger, output_ledger
from tidegate.insight.probe import Probe, probe
from tidegate.insight.sequences import OpenSequences, open_sequences
from tidegate.insight.spans import MemorySpans, memory_spans
from tidegate.insight.trace import trace

__all__ = [
    "Ablation",
    "Agreement",
    "Attribution",
    "GradientFlow",
    "History",
    "Ledger",
    "LedgerGap",
    "Match",
    "MemorySpans",
    "OpenForecast",
    "OpenSequences",
    "OutputLedger",
    "Probe",
    "Span",
    "ablate",
    "ablate_each",
    "attribute",
    "capture",
    "gradient_flow",
    "history_kept",
    "ledger",
    "ledger_gap",
    "match",
    "memory_spans",
    "open_forecast",
    "open_sequences",
    "output_ledger",
    "probe",
    "trace",
]
