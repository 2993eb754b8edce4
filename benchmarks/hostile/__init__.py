"""Commands under attack: many processes on one output, files changed at random. Each trial is a process of its own."""
