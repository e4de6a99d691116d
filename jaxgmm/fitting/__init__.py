"""Point estimates: many starts in one compiled loop, and how each ended."""
