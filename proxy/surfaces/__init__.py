"""One router per task."""
