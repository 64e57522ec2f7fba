"""Load and measurement: drives the service through its socket and judges what it costs."""
