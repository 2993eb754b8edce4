"""When a run ends: evaluations on the way, the stop rule, landing, and what the system asks for."""
