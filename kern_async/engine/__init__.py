"""One run's life: its state, its log, its only executor, its readers, and the agent loop."""
