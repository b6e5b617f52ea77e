"""Running stages in this process: order, state, locks, and what a person sees."""
