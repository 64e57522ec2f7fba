"""Names of metrics, log fields and trace headers; no library calls for them elsewhere.

Use cases and loops say what they need told in a Protocol of their own (``RelayObserver``,
``FeedObserver`` ...); the classes here fulfill those, and ``bootstrap`` hands them in. So nothing
below the composition root imports this package but for the trace id.
"""

from promise_svc.telemetry.call_metrics import CallMetrics
from promise_svc.telemetry.endpoint import MetricsEndpoint
from promise_svc.telemetry.logs import EventLog, configure_logs
from promise_svc.telemetry.merged import MergedMetrics, Page, page_of, parse_page
from promise_svc.telemetry.metrics import (
    FeedMetrics,
    IndexMetrics,
    LoopMetrics,
    Metrics,
    RelayMetrics,
    SupervisorMetrics,
)
from promise_svc.telemetry.relay_lag import RelayLag
from promise_svc.telemetry.trace import (
    TraceParent,
    current_trace_id,
    format_traceparent,
    new_trace_id,
    parse_traceparent,
)

__all__ = [
    "CallMetrics",
    "EventLog",
    "FeedMetrics",
    "IndexMetrics",
    "LoopMetrics",
    "MergedMetrics",
    "Metrics",
    "MetricsEndpoint",
    "Page",
    "RelayLag",
    "RelayMetrics",
    "SupervisorMetrics",
    "TraceParent",
    "configure_logs",
    "current_trace_id",
    "format_traceparent",
    "new_trace_id",
    "page_of",
    "parse_page",
    "parse_traceparent",
]
