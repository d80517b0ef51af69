"""RMT inside other people's frameworks. Nothing here is imported unless it is asked for."""
