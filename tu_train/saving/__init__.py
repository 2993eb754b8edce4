"""What a run leaves behind, and how it goes on after it was killed."""
