"""Results for people (terminal) and for programs (JSON)."""
